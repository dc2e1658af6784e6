"""Is this host ready? Asked of real servers, whose Nova, Keystone, Neutron and processes come and go."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guest import Reply, call
from node.daemon import Site, namespaces, site
from peers import peers_in
from peers import reset as resets
from resolvers.neutron_api import PASSWORD, Cloud, config, says
from servers.launch import ETC, SERVERS, Listener
from servers.nova import Nova
from servers.running import started
from stopping import stop

from mdmw.observe.processes import ask
from mdmw.operations.health import Health, app_factory
from mdmw.wsgi import pipelines

PATIENCE = 20.0
BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
GREEN = "c47e0d96-2b81-4a3f-8f57-e09d6c1a5b74"
_INI = """
[pipeline:agent]
pipeline = introspect identify resolve sign to-nova
[filter:introspect]
use = egg:mdmw#introspect
introspect_dir = {directory}/processes
[filter:identify]
use = egg:mdmw#source-identify
mode = relay
[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = neutron
config_file = {neutron}
[filter:sign]
use = egg:mdmw#hmac-sign
metadata_proxy_shared_secret = secret
[app:to-nova]
use = egg:mdmw#nova-forward
nova_metadata_host = unix:{directory}/nova
"""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Short, because of the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="mdmw-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def cloud(directory: Path) -> Iterator[Cloud]:
    with peers_in(str(directory)) as peers:
        yield Cloud(peers)


@pytest.fixture(scope="module")
def agent(directory: Path, cloud: Cloud) -> Iterator[None]:
    """Two workers of gunicorn."""
    neutron = config(str(directory / "neutron.ini"), cloud.group())
    ini = directory / "api-paste.ini"
    ini.write_text(_INI.format(directory=directory, neutron=neutron))
    listener = Listener(directory / "agent")
    launch = SERVERS["gunicorn"]("agent", [listener], 2)
    with started(launch, ini, (listener,), None, directory / "log"):
        until(lambda: len(ask(directory / "processes", "process")) == 2)
        yield


@contextlib.contextmanager
def running_nova(directory: Path) -> Iterator[None]:
    with Nova(directory / "nova") as made:
        yield
    made.path.unlink()


@pytest.fixture
def nova(directory: Path) -> Iterator[None]:
    with running_nova(directory):
        yield


@pytest.fixture
def health(directory: Path) -> Health:
    return made(directory)


def made(directory: Path, **more: str) -> Health:
    given = {
        "introspect_dir": str(directory / "processes"),
        "node_status_file": str(directory / "node-status.json"),
    }
    return app_factory({}, **given, **more)


def until(holds: Callable[[], Any]) -> Any:
    """A look now and then, since nobody tells."""
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def asked(app: Health, path: str = "/ready") -> dict[str, Any]:
    reply = call(app, "GET", path, [("Accept", "application/json")])
    found: dict[str, Any] = json.loads(reply.body)
    assert reply.status == (200 if found["ok"] else 503)
    assert reply.value("Retry-After") == (None if found["ok"] else "2")
    assert reply.value("Cache-Control") == "no-store"
    return found


def missing(app: Health, path: str = "/ready") -> list[str]:
    found = asked(app, path)["missing"]
    assert isinstance(found, list)
    return found


def texts(app: Health, name: str, path: str = "/ready") -> str:
    return "\n".join(one["text"] for one in asked(app, path)["checks"] if one["name"] == name)


def is_ready(app: Health) -> Callable[[], bool]:
    return lambda: missing(app) == []


# --- what is asked ----------------------------------------------------------------------


def test_ready_in_text_and_in_json(agent: None, nova: None, health: Health) -> None:
    until(is_ready(health))
    reply = call(health, "GET", "/ready")
    lines = reply.body.decode().splitlines()
    assert reply.value("Content-Type") == "text/plain; charset=UTF-8"
    assert lines[0] == "ok"
    assert "ok processes: agent: 2 of 2 answer" in lines
    assert "ok resolver: agent: Neutron answers" in lines
    assert any(line.startswith("ok upstream: agent: unix:/") for line in lines)
    assert {one["name"] for one in asked(health)["checks"]} == {"processes", "resolver", "upstream"}
    head = call(health, "HEAD", "/ready")
    assert (head.status, head.body) == (200, b"")


def test_live_is_about_this_process_alone(tmp_path: Path) -> None:
    reply = call(made(tmp_path), "GET", "/live")
    assert (reply.status, reply.body) == (200, b"ok\n")
    assert asked(made(tmp_path), "/live") == {"ok": True, "missing": [], "checks": []}


@pytest.mark.parametrize(
    "path", ["/", "/ready/", "/ready/networks", "/ready/networks/x", f"/ready/ports/{BLUE}"]
)
def test_what_is_not_here(tmp_path: Path, path: str) -> None:
    assert call(made(tmp_path), "GET", path).status == 404


def test_nothing_can_be_changed(tmp_path: Path) -> None:
    reply: Reply = call(made(tmp_path), "POST", "/ready")
    assert (reply.status, reply.value("Allow")) == (405, "GET, HEAD")


# --- what comes and goes ----------------------------------------------------------------


def test_without_nova_the_upstream_is_missing_until_it_is_back(
    agent: None, directory: Path, health: Health
) -> None:
    with running_nova(directory):
        until(is_ready(health))
    until(lambda: missing(health) == ["upstream"])
    assert f"agent: no connection to unix:{directory}/nova" in texts(health, "upstream")
    reply = call(health, "GET", "/ready")
    assert reply.body.decode().splitlines()[0] == "not ready: upstream"
    with running_nova(directory):
        until(is_ready(health))


def test_without_neutron_or_keystone_the_resolver_is_missing(
    agent: None, nova: None, cloud: Cloud, health: Health
) -> None:
    until(is_ready(health))
    cloud.neutron_faults.always = says(b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n")
    until(lambda: missing(health) == ["resolver"])
    assert texts(health, "resolver") == "agent: Neutron answers 500"
    cloud.neutron_faults.always = None
    cloud.keystone_faults.always = resets
    cloud.revoke()
    until(lambda: "Keystone" in texts(health, "resolver"))
    assert PASSWORD not in json.dumps(asked(health))
    cloud.keystone_faults.always = None
    until(is_ready(health))


def test_probes_are_not_passed_on_to_the_cloud(
    agent: None, nova: None, cloud: Cloud, health: Health, directory: Path
) -> None:
    until(is_ready(health))
    others = [made(directory) for _ in range(3)]
    before, began = len(cloud.queries), time.monotonic()
    threads = [
        threading.Thread(target=lambda app=app: [missing(app) for _ in range(10)])
        for app in [health, *others] * 5
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cloud.queries) - before <= 1 + (time.monotonic() - began) // 2


def test_a_worker_that_hangs_is_seen_and_others_answer(
    agent: None, nova: None, directory: Path, health: Health
) -> None:
    until(is_ready(health))
    one, two = (reply.pid for reply in ask(directory / "processes", "process"))
    stop(one)
    try:
        until(lambda: "1 of 2 answer" in texts(health, "processes"))
        until(is_ready(health))
        stop(two)
        until(lambda: missing(health) == ["processes"])
        assert texts(health, "processes") == "agent: 0 of 2 answer"
    finally:
        os.kill(one, signal.SIGCONT)
        os.kill(two, signal.SIGCONT)
    until(is_ready(health))


def test_a_worker_that_is_killed_is_replaced(
    agent: None, nova: None, directory: Path, health: Health
) -> None:
    until(is_ready(health))
    before = {reply.pid for reply in ask(directory / "processes", "process")}
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len({reply.pid for reply in ask(directory / "processes", "process")} - before) == 1)
    assert not (directory / "processes" / f"agent-{min(before)}.sock").exists()
    until(lambda: "2 of 2" in texts(health, "processes"))
    until(is_ready(health))


def test_a_pipeline_that_must_be_there(agent: None, nova: None, directory: Path) -> None:
    app = made(directory, pipelines="agent, proxy")
    assert missing(app) == ["processes"]
    assert "proxy: 0 of 0 answer" in texts(app, "processes")


def test_no_process_at_all(tmp_path: Path) -> None:
    app = made(tmp_path)
    assert missing(app) == ["processes"]
    assert texts(app, "processes") == f"no process has an introspection socket in {tmp_path}/processes"


# --- mdmw-node --------------------------------------------------------------------------


def status(directory: Path, **changes: Any) -> Health:
    """A host whose mdmw-node says this."""
    listener = {
        "scope": ["network", BLUE],
        "namespace": f"qdhcp-{BLUE}",
        "address": "169.254.169.254",
        "port": 80,
        "since": 1.0,
    }
    plan = {"source": "neutron", "asked_at": time.time(), "applied_at": time.time(), "problems": []}
    document = {"version": 1, "pid": os.getpid(), "since": 1.0, "listeners": [listener], "plan": plan}
    document |= {name: value for name, value in changes.items() if name in document}
    plan |= {name: value for name, value in changes.items() if name in plan}
    (directory / "node-status.json").write_text(json.dumps(document))
    return made(directory)


def test_a_network_with_a_listener_and_one_without(tmp_path: Path) -> None:
    app = status(tmp_path)
    assert missing(app, f"/ready/networks/{BLUE}") == ["processes"]
    assert missing(app, f"/ready/networks/{BLUE.upper()}") == ["processes"]
    assert f"169.254.169.254 port 80 in qdhcp-{BLUE}" in texts(app, "listeners", f"/ready/networks/{BLUE}")
    assert missing(app, f"/ready/networks/{GREEN}") == ["listeners", "processes"]
    assert missing(app, f"/ready/routers/{BLUE}") == ["listeners", "processes"]
    assert f"mdmw-node has no listener for router {BLUE}" in texts(app, "listeners", f"/ready/routers/{BLUE}")


def test_a_problem_of_one_network_is_not_one_of_the_host(tmp_path: Path) -> None:
    problem = {"scope": ["network", BLUE], "text": "no bridge"}
    app = status(tmp_path, problems=[problem], applied_at=1.0)
    assert missing(app) == ["processes"]
    assert missing(app, f"/ready/networks/{BLUE}") == ["plan", "processes"]
    assert texts(app, "plan", f"/ready/networks/{BLUE}") == "no bridge"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"applied_at": 0}, "mdmw-node has not applied a plan yet"),
        ({"asked_at": 1.0}, "s whether its plan is right"),
        ({"applied_at": 1.0, "problems": [{"scope": None, "text": "disk full"}]}, "disk full"),
    ],
)
def test_a_plan_that_is_missing_or_old(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    app = status(tmp_path, **changes)
    assert missing(app) == ["plan", "processes"]
    assert said in texts(app, "plan")
    assert missing(status(tmp_path), "/ready") == ["processes"]


def test_a_host_on_which_nobody_plans(tmp_path: Path) -> None:
    app = status(tmp_path, plan=None)
    assert missing(app) == missing(app, f"/ready/networks/{BLUE}") == ["processes"]


def test_a_status_that_cannot_be_read_or_is_of_the_dead(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    pid = ended.pid
    app = status(tmp_path, pid=pid)
    assert texts(app, "listeners") == f"mdmw-node (process {pid}) has ended"
    (tmp_path / "node-status.json").write_text("{")
    for path in ("/ready", f"/ready/networks/{BLUE}"):
        assert missing(app, path) == ["listeners", "processes"]
    (tmp_path / "node-status.json").unlink()
    assert missing(app) == ["processes"]
    assert "mdmw-node does not run on this host" in texts(app, "listeners", f"/ready/networks/{BLUE}")


SPACE = f"mdmw-health-{os.getpid()}"


@pytest.fixture
def node() -> Iterator[Site]:
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root and ip for namespaces")
    with namespaces(SPACE), site() as place, Nova(place.directory / "agent") as nova:
        nova.path.chmod(0o666)
        text = place.ini.read_text().replace("pipeline = identify", "pipeline = introspect identify")
        introspect = "[filter:introspect]\nuse = egg:mdmw#introspect\n"
        place.ini.write_text(f"{text}{introspect}introspect_dir = {place.directory}/processes\n")
        yield place


def test_an_orchestrator_asks_for_a_network_of_mdmw_node(node: Site) -> None:
    """Before a guest is unpaused; nobody has asked anything yet."""
    keeper = node.started("--workers", "2")
    app = made(node.directory)
    path = f"/ready/networks/{BLUE}"
    until(lambda: missing(app, path) == ["listeners"])
    node.want([SPACE, ["169.254.169.254", 80, None], ["network", BLUE]])
    until(lambda: missing(app, path) == [])
    assert texts(app, "processes", path) == "proxy: 2 of 2 answer"
    assert missing(app) == []
    workers = node.workers(keeper)
    keeper.kill()
    keeper.wait()
    assert missing(app, path) == ["listeners"]
    for worker in workers:  # they would serve on, for the next keeper
        os.kill(worker, signal.SIGTERM)


# --- where it is ------------------------------------------------------------------------

_FOR_OPERATORS = {"health", "exposition", "dashboard", "admin"}


@pytest.mark.parametrize("pipeline", pipelines.NAMES)
def test_no_pipeline_of_guests_has_it(pipeline: str) -> None:
    stages = pipelines.stages(str(ETC / "api-paste.ini"), pipeline)
    assert not _FOR_OPERATORS & {stage.entry_point for stage in stages}


def test_the_pipeline_operations_on_a_server(
    tmp_path: Path, directory: Path, agent: None, nova: Nova
) -> None:
    ini = directory / "operations.ini"
    text = (ETC / "api-paste.ini").read_text()
    ini.write_text(text.replace("run = /run/mdmw", f"run = {directory}"))
    listener = Listener(directory / "operations")
    launch = SERVERS["gunicorn"]("named", [listener], 1)
    launch.environ["MDMW_PIPELINE"] = "operations"
    with started(launch, ini, (listener,), None, directory / "operations.log"):
        assert http(listener, "/live") == b"ok\n"
        assert http(listener, "/metrics").startswith(b"# HELP")
        until(lambda: http(listener, "/ready").startswith(b"ok\n"))


def http(listener: Listener, path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(listener.path))
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    return answer.partition(b"\r\n\r\n")[2]
