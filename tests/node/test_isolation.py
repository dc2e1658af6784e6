"""No guest ever gets another's answer: 100 networks with the same subnet and the same addresses, at once."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from crowd import Guest, Result, forgeries
from daemon import Site, site

from mdmw.cli.demo import DemoProcesses
from mdmw.identity import identity_of
from mdmw.node.namespaces import run
from mdmw.signing import Signer

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)

NETWORKS = 100
ADDRESSES = tuple(f"10.0.0.{number}" for number in range(3, 8))
REQUESTS = int(os.environ.get("MDMW_ISOLATION_REQUESTS", "10000"))
CROWDS = 2
TESTS = Path(__file__).parents[1]

_INI = """
[pipeline:combined]
pipeline = identify resolve sign to-nova
[pipeline:nova]
pipeline = verify responder
[filter:identify]
use = egg:mdmw#source-identify
mode = listener
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = inventory
inventory_file = %(here)s/inventory.yaml
[filter:sign]
use = egg:mdmw#hmac-sign
metadata_proxy_shared_secret_file = %(here)s/shared-secret
[filter:verify]
use = egg:mdmw#hmac-verify
metadata_proxy_shared_secret_file = %(here)s/shared-secret
[app:to-nova]
use = egg:mdmw#nova-forward
nova_metadata_host = unix:%(here)s/nova
[app:responder]
use = egg:mdmw#responder
inventory_file = %(here)s/inventory.yaml
password_db = %(here)s/passwords.sqlite
"""


def made_guests(signer: Signer) -> list[Guest]:
    """Five on each network, with the same five addresses everywhere."""
    prefix = f"mdmw-{secrets.token_hex(2)}"
    guests = []
    for number in range(NETWORKS):
        network = str(uuid.uuid4())
        for address in ADDRESSES:
            instance = str(uuid.uuid4())
            guests.append(
                Guest(
                    f"{prefix}-g{number}",
                    network,
                    address,
                    instance,
                    uuid.uuid4().hex,
                    signer.sign(instance.encode()),
                )
            )
    return guests


def inventory(guests: list[Guest]) -> str:
    """JSON is YAML."""
    return json.dumps(
        {
            "networks": [
                {"id": network, "subnets": [{"id": str(uuid.uuid4()), "cidr": "10.0.0.0/24"}]}
                for network in dict.fromkeys(guest.network for guest in guests)
            ],
            "instances": [
                {
                    "id": guest.instance,
                    "project_id": guest.project,
                    "name": f"guest-{number}",
                    "ports": [
                        {
                            "id": str(uuid.uuid4()),
                            "network": guest.network,
                            "mac": f"fa:16:3e:00:{number // 256:02x}:{number % 256:02x}",
                            "addresses": [guest.address],
                        }
                    ],
                }
                for number, guest in enumerate(guests)
            ],
        }
    )


@contextlib.contextmanager
def cabled(networks: dict[str, str]) -> Iterator[None]:
    """By network the namespace of its guests, and `qdhcp-<network>` with the metadata address beside it."""
    nodes = [f"qdhcp-{network}" for network in networks]
    made = [*nodes, *networks.values()]
    try:
        run("ip", "-batch", "-", stdin="".join(f"netns add {name}\n" for name in made))
        cables = [
            f"link add tap0 netns {node} type veth peer name eth0 netns {guests}\n"
            for node, guests in zip(nodes, networks.values(), strict=True)
        ]
        run("ip", "-batch", "-", stdin="".join(cables))
        for node, guests in zip(nodes, networks.values(), strict=True):
            inside(node, "link set tap0 up", "address add 10.0.0.2/24 dev tap0")
            inside(node, "address add 169.254.169.254/32 dev tap0")
            inside(
                guests,
                "link set eth0 up",
                *(f"address add {address}/24 dev eth0" for address in ADDRESSES),
                "route add 169.254.169.254/32 via 10.0.0.2",
            )
        yield
    finally:
        for name in made:
            with contextlib.suppress(Exception):
                run("ip", "netns", "delete", name)


def inside(namespace: str, *lines: str) -> None:
    run("ip", "-n", namespace, "-batch", "-", stdin="\n".join([*lines, ""]))


@pytest.fixture(scope="module")
def guests() -> Iterator[list[Guest]]:
    """All of them, served by one mdmw-node, and asking a Nova that checks signatures."""
    secret = secrets.token_hex(32)
    found = made_guests(Signer([secret]))
    networks = {guest.network: guest.namespace for guest in found}
    with cabled(networks), site() as place, contextlib.ExitStack() as stack:
        place.ini.write_text(_INI)
        (place.directory / "inventory.yaml").write_text(inventory(found))
        (place.directory / "shared-secret").touch(mode=0o600)
        (place.directory / "shared-secret").write_text(f"{secret}\n")
        start_nova(place, stack)
        place.started("--pipeline", "combined")
        place.want(*([f"qdhcp-{one}", ["169.254.169.254", 80, None], ["network", one]] for one in networks))
        yield found
        assert "Traceback" not in place.log


def start_nova(place: Site, stack: contextlib.ExitStack) -> None:
    path = place.directory / "nova"
    DemoProcesses(place.directory, stack).serve("nova", f"unix:{path}")
    workers = identity_of("nobody", "")
    os.chown(path, workers.uid, workers.gid)


def ask_all(guests: list[Guest], requests: int) -> list[Result]:
    """So many requests in all, by a few processes; the result of each."""
    networks = list(dict.fromkeys(guest.network for guest in guests))
    with contextlib.ExitStack() as stack:
        crowds = []
        for part in (networks[number::CROWDS] for number in range(CROWDS)):
            crowd = subprocess.Popen(
                [sys.executable, str(TESTS / "node" / "crowd.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
            stack.enter_context(crowd)
            stack.callback(crowd.kill)
            given = {
                "guests": [astuple(guest) for guest in guests if guest.network in part],
                "victims": {network: [astuple(one) for one in victims(guests, network)] for network in part},
                "requests": requests // len(networks),
            }
            json.dump(given, crowd.stdin)
            crowd.stdin.close()
            crowds.append(crowd)
        return [Result(**json.load(crowd.stdout)) for crowd in crowds]


def victims(guests: list[Guest], network: str) -> list[Guest]:
    """One on the same network, and one that has the same address as a guest of it on another."""
    own = [guest for guest in guests if guest.network == network]
    others = [guest for guest in guests if guest.network != network and guest.address == own[-1].address]
    return [own[0], others[0]]


@pytest.mark.timeout(900)
def test_r_1_no_guest_gets_the_answer_of_another(guests: list[Guest]) -> None:
    """R-1, W-1, W-2, W-5: 500 guests, whatever they forge, get what is theirs, and no error."""
    results = ask_all(guests, REQUESTS)
    assert [(result.wrong_count, result.wrong) for result in results] == [(0, [])] * CROWDS
    assert sum(result.right for result in results) == REQUESTS
    assert sum(result.forged for result in results) == REQUESTS * 3 // 4
    assert [result.ways for result in results] == [2 * len(forgeries(guests[0]))] * CROWDS


def test_a_wrong_answer_does_not_pass(guests: list[Guest]) -> None:
    """The guests of one network take themselves for those of the next one: each answer is then wrong."""
    first, second = guests[: len(ADDRESSES)], guests[len(ADDRESSES) : 2 * len(ADDRESSES)]
    mistaken = [
        replace(guest, instance=other.instance, project=other.project)
        for guest, other in zip(first, second, strict=True)
    ]
    wrong, right = ask_all([*mistaken, *second], 2 * 20)
    assert (wrong.right, wrong.wrong_count) == (0, 20)
    assert wrong.wrong[0].endswith(f"that of ('{first[0].instance}', '{first[0].project}')")
    assert (right.right, right.wrong_count) == (20, 0)
