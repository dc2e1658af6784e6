"""The conformance suite for resolvers: tests that every resolver must pass.

Subclass `ResolverConformance` in a test file, load the world into your back end in `make_resolver`, and
let pytest collect the class. Each test has the rule of the specification in its name.
`make_broken_resolver` is optional; without it one test is skipped.

    class TestMine(ResolverConformance):
        def make_resolver(self, world):
            return MyResolver(settings_of(a_back_end_that_holds(world)))
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

from mdmw.errors import Contradiction, NotIdentified, Unavailable
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers import contract
from mdmw.resolvers.contract import Port, Resolver

_THREADS = 8
_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class WorldSubnet:
    """A subnet and its network."""

    id: str
    network_id: str
    cidr: str


@dataclass(frozen=True, slots=True)
class World:
    """What the back end contains. Networks and routers are those that subnets and ports name.

    The interfaces of a router are ports whose `device_id` is the router. A back end without ports of the
    cloud itself, or without ports that have no device, leaves these ports out; the answers are the same.
    """

    subnets: tuple[WorldSubnet, ...]
    ports: tuple[Port, ...]


def _id(kind: int, number: int) -> str:
    return f"c0f04a4c-{kind:04x}-4000-8000-{number:012x}"


BLUE, GREEN, NORTH, SOUTH = (_id(1, n) for n in range(4))
BLUE_SUBNET, GREEN_SUBNET, NORTH_SUBNET, SOUTH_SUBNET, SOUTH_DETACHED, BLUE_V6 = (_id(2, n) for n in range(6))
ROUTER, LONELY_ROUTER, GREEN_ROUTER = (_id(3, n) for n in range(3))
PROJECT, OTHER_PROJECT = "5d1f0c6e0a9b4e6f8f3f6f2b7c9d0e11", "9a7c3e2b1d0f4a5c8b6e7d8f90a1b2c3"
UNKNOWN = _id(9, 9)

ADA, BEN, CID, DEE, EVE, FAY, GUS = (_id(4, n) for n in range(7))

#: An address that only one port of the world has, so that a search in all networks would find it.
ONCE = "10.2.0.6"

_COMPUTE = "compute:nova"


def _port(
    number: int,
    network: str,
    mac: str,
    device: str,
    fixed_ips: tuple[tuple[str, str], ...],
    owner: str = _COMPUTE,
    project: str = PROJECT,
) -> Port:
    return Port(_id(5, number), network, mac, device, owner, project, fixed_ips)


#: Two unrelated networks, blue and green, have the same subnet. North and south are behind one router; south
#: has a second subnet that is not attached to the router.
WORLD = World(
    subnets=(
        WorldSubnet(BLUE_SUBNET, BLUE, "10.0.0.0/24"),
        WorldSubnet(BLUE_V6, BLUE, "2001:db8:b::/64"),
        WorldSubnet(GREEN_SUBNET, GREEN, "10.0.0.0/24"),
        WorldSubnet(NORTH_SUBNET, NORTH, "10.1.0.0/24"),
        WorldSubnet(SOUTH_SUBNET, SOUTH, "10.2.0.0/24"),
        WorldSubnet(SOUTH_DETACHED, SOUTH, "10.1.0.0/24"),
    ),
    ports=(
        # The same address on two unrelated networks, and an IPv6 address beside it.
        _port(1, BLUE, "fa:16:3e:00:00:01", ADA, (("10.0.0.5", BLUE_SUBNET), ("2001:db8:b::5", BLUE_V6))),
        _port(2, GREEN, "fa:16:3e:00:00:02", BEN, (("10.0.0.5", GREEN_SUBNET),), project=OTHER_PROJECT),
        # The same address on both networks of a router; only one of the subnets is attached.
        _port(3, NORTH, "fa:16:3e:00:00:03", CID, (("10.1.0.5", NORTH_SUBNET),)),
        _port(4, SOUTH, "fa:16:3e:00:00:04", DEE, (("10.1.0.5", SOUTH_DETACHED),)),
        # The same MAC on both networks of a router: of two instances, then of one.
        _port(5, NORTH, "fa:16:3e:00:00:0a", EVE, (("10.1.0.6", NORTH_SUBNET),)),
        _port(6, SOUTH, "fa:16:3e:00:00:0a", FAY, (("10.2.0.6", SOUTH_SUBNET),)),
        _port(7, NORTH, "fa:16:3e:00:00:0b", GUS, (("10.1.0.7", NORTH_SUBNET),)),
        _port(8, SOUTH, "fa:16:3e:00:00:0b", GUS, (("10.2.0.7", SOUTH_SUBNET),)),
        # A port of another project than its instance's: the port's counts.
        _port(9, BLUE, "fa:16:3e:00:00:09", CID, (("10.0.0.9", BLUE_SUBNET),), project=OTHER_PROJECT),
        # What is not a guest: of the cloud itself, and without a device.
        _port(20, BLUE, "fa:16:3e:00:00:20", "dhcp-blue", (("10.0.0.2", BLUE_SUBNET),), "network:dhcp"),
        _port(21, BLUE, "fa:16:3e:00:00:21", "", (("10.0.0.21", BLUE_SUBNET),), ""),
        _port(22, BLUE, "fa:16:3e:00:00:22", "", (("10.0.0.22", BLUE_SUBNET),), "trunk:subport"),
        # Router interfaces, one of each kind that leads to guests, and a gateway that does not.
        _port(
            30, NORTH, "fa:16:3e:00:00:30", ROUTER, (("10.1.0.1", NORTH_SUBNET),), "network:router_interface"
        ),
        _port(
            31,
            SOUTH,
            "fa:16:3e:00:00:31",
            ROUTER,
            (("10.2.0.1", SOUTH_SUBNET),),
            "network:router_interface_distributed",
        ),
        _port(
            32,
            GREEN,
            "fa:16:3e:00:00:32",
            GREEN_ROUTER,
            (("10.0.0.1", GREEN_SUBNET),),
            "network:ha_router_replicated_interface",
        ),
        _port(
            33,
            BLUE,
            "fa:16:3e:00:00:33",
            LONELY_ROUTER,
            (("10.0.0.254", BLUE_SUBNET),),
            "network:router_gateway",
        ),
    ),
)


class ResolverConformance:
    """Subclass this class, and make the resolver in `make_resolver`."""

    def make_resolver(self, world: World) -> Resolver:
        """Return a resolver whose back end contains this world."""
        raise NotImplementedError

    def make_broken_resolver(self) -> Resolver | None:
        """Return a resolver whose back end cannot be reached; None if this cannot happen."""
        return None

    # --- the contract -------------------------------------------------------------------

    def test_contract_version_and_options(self) -> None:
        """The class names the version of the contract, and its options have help texts."""
        kind = type(self.make_resolver(WORLD))
        _same(kind.contract_version, contract.VERSION)
        for option in kind.options:
            if not (option.name and option.help):
                raise AssertionError(f"option {option.name!r} has no help")

    def test_fresh_finds_the_same(self) -> None:
        """`fresh` skips caches. In a world without changes the answer is the same."""
        resolver = self.make_resolver(WORLD)
        source = _on(BLUE, "10.0.0.5")
        _same(resolver.resolve(source, fresh=True), resolver.resolve(source))

    # --- by network ---------------------------------------------------------------------

    def test_r1_finds_within_the_network_only(self) -> None:
        """R-1, first row of 2.3: the same address on two networks belongs to two instances."""
        resolver = self.make_resolver(WORLD)
        _same(resolver.resolve(_on(BLUE, "10.0.0.5")), Instance(ADA, PROJECT, _id(5, 1)))
        _same(resolver.resolve(_on(GREEN, "10.0.0.5")), Instance(BEN, OTHER_PROJECT, _id(5, 2)))

    def test_r1_address_of_another_network_is_nobody(self) -> None:
        """R-1: the address of a port on another network finds no instance."""
        self._nobody(_on(GREEN, ONCE))

    def test_r1_unknown_network_is_nobody(self) -> None:
        """R-1: an unknown network is not a search in all networks."""
        self._nobody(_on(UNKNOWN, ONCE))

    def test_r3_ipv6_fixed_address(self) -> None:
        """R-3: every fixed address of a port finds its instance."""
        _same(self._find(_on(BLUE, "2001:db8:b::5")), Instance(ADA, PROJECT, _id(5, 1)))

    def test_r3_no_part_of_an_address_matches(self) -> None:
        """R-3: the whole address must match: 10.0.0.5 is not 10.0.0.50."""
        self._nobody(_on(BLUE, "10.0.0.50"))
        self._nobody(_on(BLUE, "10.0.0.1"))

    def test_r3_mac_does_not_help_an_address(self) -> None:
        """R-3: the search for a fixed address ignores the MAC."""
        self._nobody(_on(BLUE, "10.0.0.77", mac="fa:16:3e:00:00:01"))

    def test_r3_address_pair_is_nobody(self) -> None:
        """2.3: an allowed address pair is not a fixed address, and finds no instance."""
        self._nobody(_on(BLUE, "10.0.0.100"))

    def test_r4_ports_of_the_cloud_are_nobody(self) -> None:
        """R-4: DHCP ports, router interfaces and gateways belong to no instance."""
        self._nobody(_on(BLUE, "10.0.0.2"))
        self._nobody(_on(GREEN, "10.0.0.1"))
        self._nobody(_on(BLUE, "10.0.0.254"))

    def test_r4_ports_without_a_device_are_nobody(self) -> None:
        """R-4 and 2.2: unbound ports, and subports of trunks."""
        self._nobody(_on(BLUE, "10.0.0.21"))
        self._nobody(_on(BLUE, "10.0.0.22"))

    def test_project_is_that_of_the_port(self) -> None:
        """2.3: the project of the port is the answer, also when the instance has another project."""
        _same(self._find(_on(BLUE, "10.0.0.9")), Instance(CID, OTHER_PROJECT, _id(5, 9)))

    # --- by router ----------------------------------------------------------------------

    def test_r2_finds_behind_the_router(self) -> None:
        """R-2 and 2.2: through each kind of interface that leads to guests."""
        _same(self._find(_behind(ROUTER, "10.1.0.6")).id, EVE)
        _same(self._find(_behind(ROUTER, "10.2.0.6")).id, FAY)
        _same(self._find(_behind(GREEN_ROUTER, "10.0.0.5")).id, BEN)

    def test_r2_router_without_interfaces_is_nobody(self) -> None:
        """R-2: a router without interfaces is not a search in all networks. A gateway is not an interface."""
        self._nobody(_behind(LONELY_ROUTER, ONCE))
        self._nobody(_behind(UNKNOWN, ONCE))

    def test_r2_other_networks_are_not_behind_it(self) -> None:
        """R-2: a port on a network that is not attached to the router is not found."""
        self._nobody(_behind(ROUTER, "10.0.0.9"))

    def test_r5_the_attached_subnet_decides(self) -> None:
        """R-5: the same address on two networks of the router."""
        _same(self._find(_behind(ROUTER, "10.1.0.5")), Instance(CID, PROJECT, _id(5, 3)))

    def test_r6_two_instances_are_nobody(self) -> None:
        """R-6: two instances with the same MAC behind one router are no answer, and an error in the log."""
        with _logged("ERROR") as lines:
            self._nobody(_behind(ROUTER, "fe80::f816:3eff:fe00:a"))
        for port_id in (_id(5, 5), _id(5, 6)):
            if not any(port_id in line for line in lines):
                raise AssertionError(f"no line at ERROR names port {port_id}")

    def test_r6_two_ports_of_one_instance_are_that(self) -> None:
        """R-6: two ports of one instance with the same MAC behind one router are this instance."""
        found = self._find(_behind(ROUTER, "fe80::f816:3eff:fe00:b"))
        _same((found.id, found.project_id), (GUS, PROJECT))

    # --- link-local sources -------------------------------------------------------------

    def test_r7_mac_from_the_address(self) -> None:
        """R-7: an EUI-64 address contains the MAC."""
        _same(self._find(_on(BLUE, "fe80::f816:3eff:fe00:1")).id, ADA)
        _same(self._find(_on(GREEN, "fe80::f816:3eff:fe00:2")).id, BEN)

    def test_r7_mac_of_another_network_is_nobody(self) -> None:
        """R-7 and R-1: a MAC on another network finds no instance."""
        self._nobody(_on(GREEN, "fe80::f816:3eff:fe00:1"))

    def test_r8_mac_that_somebody_saw(self) -> None:
        """R-8: for another link-local address the MAC of the packet counts."""
        source = _on(BLUE, "fe80::1234:5678:9abc:def0", mac="fa:16:3e:00:00:01")
        _same(self._find(source).id, ADA)

    def test_r8_no_mac_at_all_is_nobody(self) -> None:
        """R-8: no MAC is derived from an address that is not EUI-64."""
        self._nobody(_on(BLUE, "fe80::1234:5678:9abc:def0"))

    def test_r8_contradiction_is_said(self) -> None:
        """R-8: two different MACs, in the address and in the packet, are a `Contradiction`."""
        self._raises(Contradiction, _on(BLUE, "fe80::f816:3eff:fe00:1", mac="fa:16:3e:00:00:02"))

    # --- faults and threads -------------------------------------------------------------

    def test_unavailable_is_not_absent(self) -> None:
        """1.6: a temporary fault is not the answer that there is no instance."""
        resolver = self.make_broken_resolver()
        if resolver is None:
            raise SkipTest("this back end can always be reached")
        _raises(Unavailable, lambda: resolver.resolve(_on(BLUE, "10.0.0.5")))

    def test_many_threads_at_once(self) -> None:
        """Each of several threads gets the answers to its own questions."""
        resolver = self.make_resolver(WORLD)
        expected = {_on(BLUE, "10.0.0.5"): ADA, _on(GREEN, "10.0.0.5"): BEN, _behind(ROUTER, "10.2.0.6"): FAY}
        wrong: list[object] = []
        start = threading.Barrier(_THREADS)

        def work() -> None:
            try:
                start.wait()
                for _ in range(_ROUNDS):
                    for source, instance_id in expected.items():
                        _same(resolver.resolve(source).id, instance_id)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _same(wrong, [])

    # --- helpers ------------------------------------------------------------------------

    def _find(self, source: Source) -> Instance:
        return self.make_resolver(WORLD).resolve(source)

    def _nobody(self, source: Source) -> None:
        self._raises(NotIdentified, source)

    def _raises(self, kind: type[Exception], source: Source) -> None:
        resolver = self.make_resolver(WORLD)
        _raises(kind, lambda: resolver.resolve(source))


class _logged(logging.Handler):
    """Collects the lines that mdmw logs at one level."""

    def __init__(self, level: str) -> None:
        super().__init__(level)
        self._level = level
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelname == self._level:
            self._lines.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger("mdmw").addHandler(self)
        return self._lines

    def __exit__(self, *exc_info: Any) -> None:
        logging.getLogger("mdmw").removeHandler(self)


def _on(network: str, address: str, mac: str | None = None) -> Source:
    return Source(address, Scope("network", network), mac)


def _behind(router: str, address: str) -> Source:
    return Source(address, Scope("router", router))


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


def _raises(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        found = call()
    except kind:
        return
    raise AssertionError(f"found {found!r}, expected {kind.__name__}")
