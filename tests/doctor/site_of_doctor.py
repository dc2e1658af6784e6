"""A node on which all is well: mdmw-node from a file, an agent, Keystone, Neutron and Nova.

Everything that is asked is a real process or socket; only Keystone, Neutron and Nova are stand-ins.
"""

import contextlib
import datetime
import email.utils
import json
import ssl
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator

from cli.daemons import LISTENING, program, running
from node.daemon import Site, children, site
from node.kvm_host import Host, ip, made
from peers import Conversation, Peers, Received, peers_in, response
from resolvers.neutron_api import PASSWORD, Cloud, config

from mdmw.cli.main import main
from mdmw.node.converge import converge
from mdmw.node.namespaces import run
from mdmw.node.plan import Plan
from mdmw.resolvers.contract import Port
from mdmw.signing import Signer
from mdmw.testing.resolvers import World

SECRET = "correct-horse-of-nova"
PROJECT = "0f5b6a8e1c2d4e3f9a7b6c5d4e3f2a1b"


class Nova:
    """Nova's metadata API, as spec 3.2 has it; `act` is what it does instead."""

    def __init__(self, peers: Peers, instance: str, tls: ssl.SSLContext | None = None) -> None:
        self.secret = SECRET
        self.project = PROJECT
        self.skew = 0.0  # seconds
        self.act: Callable[[Conversation], None] | None = None
        self._instance = instance
        self._peers = peers
        self.peer = peers.tcp(self._script, tls=tls)

    def _script(self, conversation: Conversation) -> None:
        while received := conversation.request():
            if self.act:
                self.act(conversation)
            else:
                status = self._status(received)
                now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.skew)
                date = f"Date: {email.utils.format_datetime(now, usegmt=True)}"
                conversation.send(response(status, json.dumps({"uuid": self._instance}).encode(), date))

    def _status(self, received: Received) -> str:
        instance = received.value("X-Instance-ID") or ""
        if received.value("X-Instance-ID-Signature") != Signer([self.secret]).sign(instance.encode()):
            return "403 Forbidden"
        known = (instance, received.value("X-Tenant-ID")) == (self._instance, self.project)
        return "200 OK" if known else "404 Not Found"


class Node:
    """The healthy node. `isolated` is a network of its own, `routed` one behind `router`."""

    def __init__(self, host: Host, place: Site, peers: Peers) -> None:
        self.host, self.place, self.peers = host, place, peers
        self.isolated, self.routed, self.router = (str(uuid.uuid4()) for _ in range(3))
        self.subnets = [str(uuid.uuid4()) for _ in range(2)]
        self.guest, self.address, self.mac = str(uuid.uuid4()), "10.0.1.9", "fa:16:3e:5b:20:01"
        self.port = Port(
            str(uuid.uuid4()), self.isolated, self.mac, self.guest, "compute:nova", PROJECT,
            ((self.address, self.subnets[0]),),
        )  # fmt: skip
        interface = Port(
            str(uuid.uuid4()), self.routed, "fa:16:3e:5b:20:02", self.router, "network:router_interface",
            PROJECT, (("10.0.2.1", self.subnets[1]),),
        )  # fmt: skip
        self.cloud = Cloud(peers, World((), (self.port, interface)))
        self.nova = Nova(peers, self.guest)
        self.socket = place.directory / "agent"
        self.agent_ini = place.directory / "metadata_agent.ini"
        self.state = host.places.state
        self.inventory = place.directory / "inventory.yaml"
        self._keeper: subprocess.Popen[bytes] | None = None
        self.agent: subprocess.Popen[str] | None = None
        self.bridges = [host.bridge(), host.bridge()]
        self.write_inventory()
        self.write_agent()

    @property
    def space(self) -> str:
        return f"qdhcp-{self.isolated}"

    @property
    def router_space(self) -> str:
        return f"qrouter-{self.router}"

    @property
    def device(self) -> str:
        """Of the DHCP port of the isolated network."""
        return self.devices(self.space)[0]

    def devices(self, space: str) -> list[str]:
        names = [line.split()[0].split("@")[0] for line in ip(space, "-br link").splitlines()]
        return [name for name in names if name != "lo"]

    def write_inventory(self) -> None:
        subnets = [
            {"id": self.subnets[0], "cidr": "10.0.1.0/24"},
            {"id": self.subnets[1], "cidr": "10.0.2.0/24", "gateway_ip": "10.0.2.1"},
        ]
        content = {
            "networks": [
                {"id": network, "bridge": bridge, "subnets": [subnet]}
                for network, bridge, subnet in zip(
                    (self.isolated, self.routed), self.bridges, subnets, strict=True
                )
            ],
            "routers": [{"id": self.router, "interfaces": [{"subnet": self.subnets[1]}]}],
            "instances": [
                {
                    "id": self.guest,
                    "project_id": PROJECT,
                    "name": "g",
                    "ports": [
                        {
                            "id": self.port.id,
                            "network": self.isolated,
                            "mac": self.mac,
                            "addresses": [self.address],
                        }
                    ],
                }
            ],
        }
        self.inventory.write_text(json.dumps(content))

    def write_agent(self, password: str = PASSWORD, **more: object) -> None:
        """The options of the agent, which the doctor reads too."""
        given = {
            "nova_metadata_host": self.nova.peer.address.host,
            "nova_metadata_port": self.nova.peer.address.port,
            "metadata_proxy_shared_secret": SECRET,
            "metadata_proxy_socket": self.socket,
            "metadata_proxy_user": "nobody",
            "metadata_workers": 1,
            "state_path": self.place.directory,
        } | more
        group = self.cloud.group(password=password)
        config(str(self.agent_ini), group, {name: str(value) for name, value in given.items()})

    # --- processes ----------------------------------------------------------------------

    def start(self) -> None:
        """mdmw-node, and wait until it serves what it should."""
        words = ["--file", str(self.inventory), "--set", f"node_state_path={self.state}"]
        self._keeper = self.place.started("--look-interval", "3600", *words)
        self.until_served()

    def until_served(self) -> None:
        wanted = {self.isolated, self.router}
        self.place.until(lambda: {str(one["scope"][1]) for one in self.place.listeners()} == wanted)  # type: ignore[index]

    @property
    def keeper(self) -> int:
        assert self._keeper
        return self._keeper.pid

    def stop(self) -> None:
        """mdmw-node ends; what it made stays."""
        assert self._keeper
        self._keeper.terminate()
        self._keeper.wait(10)
        self.place.supervisor.drop()

    @property
    def workers(self) -> list[int]:
        assert self._keeper
        found = self.place.workers(self._keeper)
        assert found
        return found

    @property
    def agents(self) -> list[int]:
        """The agent and its workers."""
        assert self.agent
        return [self.agent.pid, *children(self.agent.pid)]

    def want(self, *listeners: list[object]) -> None:
        """By the control socket, in place of the plan, until the next look."""
        self.place.want(*listeners)

    @property
    def listeners(self) -> list[list[object]]:
        return [
            [self.space, ["169.254.169.254", 80, None], ["network", self.isolated]],
            [self.router_space, ["::", 9697, None], ["router", self.router]],
        ]


@contextlib.contextmanager
def healthy() -> Iterator[Node]:
    """One node, as long as the tests last."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(made())
        peers = stack.enter_context(peers_in(stack.enter_context(tempfile.TemporaryDirectory())))
        place = stack.enter_context(site())
        host.places.state.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "none", str(host.places.state))
        stack.callback(run, "umount", "-l", str(host.places.state))
        stack.callback(converge, Plan(), host.places)  # while it is known what was made
        node = Node(host, place, peers)
        node.agent_ini.chmod(0o600)
        command = [program("mdmw-metadata-agent"), "--config-file", node.agent_ini]
        node.agent = stack.enter_context(running(command, LISTENING)).process
        node.start()
        stack.callback(node.stop)
        yield node


# --- the doctor ------------------------------------------------------------------------


class Diagnosis:
    """What `mdmw doctor` said."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        self.first = text.partition("\n")[0]

    @property
    def kind(self) -> str:
        """Of the first line."""
        return self.first.split()[1].rstrip(":") if self.status else ""

    def __repr__(self) -> str:
        return f"status {self.status}\n{self.text}"


def doctor(capsys, *words: object) -> Diagnosis:
    """Run it, in this process; with more time than by itself, since this machine may be busy."""
    status = main(["doctor", "--within", "8", *map(str, words)])
    return Diagnosis(status, capsys.readouterr().out)
