"""mdmw-node in place of the metadata part of Neutron's agents: Neutron on a real socket, real namespaces."""

import contextlib
import http.server
import json
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from daemon import Site, site
from kvm_host import Host, inside, ip, made, obstacle
from servers.nova import Nova
from test_views import HOST, Rest, port

from mdmw.node.namespaces import run

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=f"needs root and: {obstacle()}")

GUEST = "10.0.0.9"


class Neutron(Rest):
    """Neutron's lists over HTTP; `status` other than 200 is all that it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        for items in self.lists.values():
            items.clear()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(outer._page(self.path)).encode() if outer.status == 200 else b"{}"
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, network: str, *, routed_by: str = "", ha: bool = False) -> None:
        """A network with a DHCP port on this host, and a router at its gateway."""
        subnet = str(uuid.uuid4())
        self.lists["subnets"].append(
            {
                "id": subnet,
                "network_id": network,
                "cidr": "10.0.0.0/24",
                "gateway_ip": "10.0.0.1",
                "enable_dhcp": True,
                "dns_nameservers": [],
                "host_routes": [],
                "ipv6_address_mode": None,
                "segment_id": None,
            }
        )
        fixed = ("10.0.0.2", subnet)
        ports = [port(network[:8], "network:dhcp", f"dhcp-{network}", fixed, host=HOST, network_id=network)]
        if routed_by:
            fixed = ("10.0.0.1", subnet)
            name = routed_by[:8]
            ports.append(port(name, "network:router_interface", routed_by, fixed, network_id=network))
            router = {"id": routed_by, "ha": ha, "distributed": False, "admin_state_up": True}
            self.lists["routers"].append(router)
        self.lists["ports"] += ports
        self.lists["networks"].append({"id": network, "admin_state_up": True})


class Node:
    """A host on which Neutron's agents have done their part, or do it now."""

    def __init__(self, host: Host, place: Site, neutron: Neutron, poll_interval: float) -> None:
        self.host, self.place, self.neutron = host, place, neutron
        self.dhcp_confs, self.ha_confs = host.directory / "dhcp", host.directory / "ha_confs"
        options = place.directory / "dhcp_agent.ini"
        options.write_text(
            "[DEFAULT]\nenable_isolated_metadata = true\nauth_strategy = noauth\n"
            f"endpoint_url = {neutron.url}\nhost = {HOST}\ndhcp_confs = {self.dhcp_confs}\n"
            f"ha_confs_path = {self.ha_confs}\n"
            f"node_state_path = {host.places.state}\n"
        )
        options.chmod(0o600)
        words = ["--config-file", str(options), "--poll-interval", str(poll_interval)]
        self.keeper = place.started(*words, "--look-interval", "1")

    def dhcp_agent(self, network: str) -> str:
        """What it makes of a network; the namespace."""
        space = self.host.namespace(f"qdhcp-{network}")
        device = f"tap{network[:8]}-00"
        run("ip", "link", "add", device, "netns", space, "type", "veth", "peer", "eth0", "netns", space)
        ip(space, f"addr add 10.0.0.2/24 dev {device}")
        ip(space, f"addr add {GUEST}/24 dev eth0")
        for name in (device, "eth0"):
            ip(space, f"link set {name} up")
        directory = self.dhcp_confs / network
        directory.mkdir(parents=True)
        subnet = next(one["id"] for one in self.neutron.lists["subnets"] if one["network_id"] == network)
        (directory / "opts").write_text(f"tag:subnet-{subnet},option:router,10.0.0.1\n")
        return space

    def l3_agent(self, router: str) -> str:
        """The namespace of a router."""
        return self.host.namespace(f"qrouter-{router}")

    def state(self, router: str, text: str) -> None:
        """What the L3 agent writes when keepalived changes its mind."""
        directory = self.ha_confs / router
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "state").write_text(text)

    def served(self) -> set[str]:
        return {str(one["namespace"]) for one in self.place.listeners()}


@contextlib.contextmanager
def polling(interval: float) -> Iterator[Node]:
    """A node that asks Neutron so often."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(made())
        neutron = Neutron()
        stack.callback(neutron.close)
        agent = stack.enter_context(Nova(host.directory / "agent"))
        agent.path.chmod(0o666)
        yield Node(host, stack.enter_context(site(agent.path)), neutron, interval)


@pytest.fixture
def node() -> Iterator[Node]:
    with polling(1) as one:
        yield one


def shown(space: str) -> list[str]:
    return [
        word for word in inside(space, "ip", "-br", "addr").split() if "169.254" in word or "a9fe" in word
    ]


def test_namespaces_of_neutron(node: Node) -> None:
    """4.4, 4.5, 4.6: what is missing is added as they appear; what Neutron made stays Neutron's."""
    network, router = str(uuid.uuid4()), str(uuid.uuid4())
    node.neutron.add(network)
    node.place.wait_for_log(f"qdhcp-{network}: the namespace does not exist yet; Neutron's agent makes it")
    space = node.dhcp_agent(network)
    node.place.until(lambda: space in node.served())
    command = f"curl -sS -m 5 --interface {GUEST} http://169.254.169.254/x"
    node.place.until(lambda: "169.254.169.254/32" in shown(space))
    assert inside(space, *command.split()) == f"/x for {network} {GUEST}"
    options = node.dhcp_confs / network / "opts"
    node.place.until(lambda: "169.254.169.254/32,10.0.0.2" in options.read_text())  # after the address
    assert "option:router,10.0.0.1" in options.read_text()
    space_of_router = node.l3_agent(router)
    node.neutron.add(str(uuid.uuid4()), routed_by=router)
    node.place.until(lambda: space_of_router in node.served())
    assert "table inet mdmw" in inside(space_of_router, "nft", "list", "ruleset")


def test_half_an_answer_removes_nothing(node: Node) -> None:
    """Neutron fails, in one line, and comes back with less: only then what it no longer has is taken away."""
    network, gone = str(uuid.uuid4()), str(uuid.uuid4())
    for one in (network, gone):
        node.neutron.add(one)
    spaces = [node.dhcp_agent(one) for one in (network, gone)]
    node.place.until(lambda: set(spaces) <= node.served())
    node.place.until(lambda: all("169.254.169.254/32" in shown(space) for space in spaces))
    node.neutron.status = 503
    node.neutron.lists["ports"] = [one for one in node.neutron.lists["ports"] if one["network_id"] != gone]
    node.place.wait_for_log("Neutron answers 503")
    ip(spaces[0], f"addr del 169.254.169.254/32 dev tap{network[:8]}-00")
    node.place.until(lambda: "169.254.169.254/32" in shown(spaces[0]))  # the last plan stays in force
    assert set(spaces) <= node.served()
    assert "169.254.169.254/32" in shown(spaces[1])
    assert sum("Neutron answers 503" in line for line in node.place.log.splitlines()) == 1
    node.neutron.status = 200
    node.place.until(lambda: spaces[1] not in node.served())
    node.place.until(lambda: shown(spaces[1]) == [])
    assert "10.0.0.2/24" in inside(spaces[1], "ip", "-br", "addr")
    assert spaces[0] in node.served()


def test_4_8_an_ha_router_changes_hands() -> None:
    """Spec 4.8: served here when it has been primary here for 2 seconds, and no longer when it is not."""
    router = str(uuid.uuid4())
    with polling(600) as node:
        node.neutron.add(str(uuid.uuid4()), routed_by=router, ha=True)
        node.state(router, "backup")
        space = node.l3_agent(router)  # a namespace more: Neutron is asked at once
        node.place.until(lambda: "table inet mdmw" in inside(space, "nft", "list", "ruleset"))
        assert space not in node.served()
        node.state(router, "primary")
        began = time.monotonic()
        node.place.until(lambda: space in node.served())
        assert time.monotonic() - began > 1.9
        node.state(router, "backup")
        node.place.until(lambda: space not in node.served())
        assert "table inet mdmw" in inside(space, "nft", "list", "ruleset")
