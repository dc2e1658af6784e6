"""Values that several tests of the node begin with."""

from mdmw.node.desired import Places, desired_states
from mdmw.node.inspect import ObservedState
from mdmw.node.network_state import DeviceAddress, NetworkDevice
from mdmw.node.plan import Options, plan
from mdmw.node.view import Bridge, NodeView, RouterView, SubnetView
from mdmw.resolvers.contract import Port

NETWORK = "01cce415-8e2b-4096-92b5-7acc67163d79"
ROUTER = "b28e6f41-5d07-49ca-8c9f-13a4d7e0b652"
SUBNET = "a507c135-12b9-419c-ab43-ecaa7ca57f83"
SUBNET_V6 = "a507c135-12b9-419c-ab43-ecaa7ca57f84"
DHCP = Port(
    "c2ac4ed4-f3aa-4000-8000-000000000001",
    NETWORK,
    "fa:16:3e:00:00:01",
    f"dhcp-{NETWORK}",
    "network:dhcp",
    "",
    (("172.17.17.1", SUBNET),),
)
GUEST = Port(
    "c2ac4ed4-f3aa-4000-8000-000000000002",
    NETWORK,
    "fa:16:3e:00:00:05",
    "7c52af88-d14b-45ae-87cf-be154d8c8638",
    "compute:nova",
    "p",
    (("172.17.17.5", SUBNET),),
)
INTERFACE = Port(
    "d3ac4ed4-f3aa-4000-8000-000000000003",
    NETWORK,
    "fa:16:3e:00:00:02",
    ROUTER,
    "network:router_interface",
    "",
    (("172.17.17.254", SUBNET),),
)
TAP, OUTER = "tapc2ac4ed4-f3", "mdmwc2ac4ed4-f3"
DHCP_SPACE, ROUTER_SPACE = f"qdhcp-{NETWORK}", f"qrouter-{ROUTER}"


def view(*, bridge=None, router=False, ipv6=False) -> NodeView:
    """A network with a DHCP port and a guest; on a bridge of this host, or Neutron's."""
    subnets = [SubnetView(SUBNET, NETWORK, "172.17.17.0/24")]
    if ipv6:
        subnets.append(SubnetView(SUBNET_V6, NETWORK, "fd00:a::/64", ipv6_address_mode="slaac"))
    return NodeView(
        networks=(NETWORK,),
        subnets=tuple(subnets),
        ports=(DHCP, GUEST, *([INTERFACE] if router else [])),
        routers=(RouterView(ROUTER),) if router else (),
        dhcp_ports=frozenset({DHCP.id}),
        bridges=(Bridge(NETWORK, bridge),) if bridge else (),
    )


def wanted_in(namespace, there, places=None, **options):
    """What is desired_states in one namespace."""
    made = plan(there, Options(**{"enable_isolated_metadata": True} | options))
    return desired_states(made, places or Places())[namespace]


def device(name, *addresses, **fields) -> NetworkDevice:
    """A device with addresses that are ready."""
    return NetworkDevice(name, addresses=tuple(DeviceAddress(address) for address in addresses), **fields)


def observed(*devices, **fields) -> ObservedState:
    """A namespace that is there, with `lo` and these devices."""
    return ObservedState(
        **{"exists": True, "devices": {one.name: one for one in (device("lo"), *devices)}} | fields
    )
