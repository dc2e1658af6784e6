"""The options of a network node: some of Neutron's dhcp_agent.ini and l3_agent.ini, and some of mdmw."""

import socket
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from oslo_config import cfg

from mdmw import options
from mdmw.node import namespaces
from mdmw.node.desired import FIREWALLS, Places
from mdmw.node.plan import Options
from mdmw.node.view import NodeView
from mdmw.resolvers import keystone
from mdmw.upstream.settings import limit_options, limits_of

_LARGEST_MARK = 0xFFFF

_PLAN = [
    cfg.BoolOpt(
        "force_metadata",
        default=False,
        help="Serve metadata at the DHCP port of every network with DHCP, also where a router could serve.",
    ),
    cfg.BoolOpt(
        "enable_isolated_metadata",
        deprecated_name="enable_isolated_metadata_proxy",
        help="Serve metadata at the DHCP port of networks without a router at their gateway address. "
        "Default: true on a host without Neutron, else false.",
    ),
    cfg.BoolOpt(
        "enable_metadata_network",
        default=False,
        help="Serve the guests of a router at the DHCP port of a metadata access network, which is a network "
        "with a subnet in 169.254.0.0/16.",
    ),
    cfg.BoolOpt(
        "enable_metadata_proxy",
        default=True,
        help="Serve metadata in the namespaces of routers, for the guests behind them.",
    ),
    cfg.PortOpt(
        "metadata_port",
        default=9697,
        min=1,
        help="TCP port that mdmw-node listens on in the namespaces of routers.",
    ),
    cfg.StrOpt(
        "metadata_access_mark",
        default="0x1",
        regex="^(0x[0-9a-fA-F]{1,4}|[0-9]{1,5})(/0x[fF]{1,4})?$",
        help="Mark of 16 bits that the packet filter of a router sets on packets to the metadata address; "
        "the same value as in l3_agent.ini.",
    ),
    cfg.IntOpt(
        "metadata_v4_prefixlen",
        default=32,
        min=16,
        max=32,
        help="Prefix length of 169.254.169.254 on the device of a DHCP port; 16 is the length that Neutron "
        "used until 2020.",
    ),
    cfg.IntOpt(
        "ha_vrrp_advert_int",
        default=2,
        min=0,
        help="Seconds for which this node must have the primary replica of an HA router before mdmw-node "
        "serves the router.",
    ),
    cfg.BoolOpt(
        "ha_proxy_always",
        default=False,
        help="Listen in the namespaces of HA routers on every node, not only where the primary replica is.",
    ),
    cfg.IntOpt(
        "dhcp_lease_duration",
        default=86400,
        min=120,
        help="Seconds that a DHCP lease lasts, on a host without Neutron.",
    ),
    cfg.BoolOpt(
        "ovs_use_veth",
        default=False,
        help="The name of a DHCP port's device begins with ns- instead of tap; the same value as in "
        "dhcp_agent.ini.",
    ),
]

OPTIONS = [
    *_PLAN,
    *keystone.OPTIONS,
    *limit_options("neutron", read_timeout=30.0, total_timeout=60.0),
    cfg.StrOpt(
        "host",
        default=socket.gethostname(),
        sample_default="<host name>",
        help="Name of this host; must be the same as `host` of Neutron's agents on this host.",
    ),
    cfg.StrOpt(
        "state_path", default="/var/lib/neutron", help="Directory with the state of Neutron's agents."
    ),
    cfg.StrOpt(
        "ha_confs_path",
        help="Directory in which the L3 agent keeps its files of HA routers; default: $state_path/ha_confs.",
    ),
    cfg.StrOpt(
        "dhcp_confs",
        help="Directory in which the DHCP agent keeps its files of networks; default: $state_path/dhcp.",
    ),
    cfg.StrOpt("inventory", help="Inventory file to plan from, on a host without Neutron."),
    cfg.StrOpt("inventory_db", help="Inventory database to plan from, in place of an inventory file."),
    cfg.StrOpt(
        "node_state_path",
        default=str(Places().state),
        help="Directory in which mdmw records what it made on this node.",
    ),
    cfg.StrOpt(
        "firewall",
        default=FIREWALLS[0],
        choices=FIREWALLS,
        help="Tool that writes the packet-filter rules.",
    ),
]


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the options say: how to plan, where to apply a plan, and how to read the source of the plan.

    `view` reads the source. It raises `Unavailable` when Neutron does not answer, and `ConfigError` for a
    file with a mistake. `look` is cheap: when its value changes, the source at `watched` has probably
    changed. With `is_polled` the source may change although the value of `look` stays.
    """

    options: Options
    places: Places
    watched: Path
    is_polled: bool
    look: Callable[[], Hashable]
    view: Callable[[], NodeView]


def load(given: Mapping[str, str]) -> NodeSettings:
    """The settings from options by name, which may include `config_file` and `config_dir`.

    Raises `ConfigError`.
    """
    settings = options.load("node", OPTIONS, {}, given)
    state_path = Path(settings.state_path)
    dhcp_confs = Path(settings.dhcp_confs) if settings.dhcp_confs else state_path / "dhcp"
    places = Places(
        state=Path(settings.node_state_path),
        neutron_dhcp=None if _is_alone(settings) else dhcp_confs,
        firewall=settings.firewall,
    )
    plan_options = _options(settings)
    if settings.inventory and settings.inventory_db:
        raise options.refuse(settings, "inventory_db", "inventory is given too; one of them is allowed")
    if settings.inventory_db:
        path = Path(settings.inventory_db)
        return NodeSettings(plan_options, places, path, False, *_of_database(path))
    if settings.inventory:
        path = Path(settings.inventory)
        return NodeSettings(plan_options, places, path, False, partial(_stamp, path), _of_file(path))
    path = namespaces.RUN_NETNS
    ha_confs = Path(settings.ha_confs_path) if settings.ha_confs_path else state_path / "ha_confs"
    return NodeSettings(plan_options, places, path, True, *_of_neutron(settings, ha_confs))


def _is_alone(settings: SimpleNamespace) -> bool:
    """Whether this host has no Neutron."""
    return bool(settings.inventory or settings.inventory_db)


def _options(settings: SimpleNamespace) -> Options:
    isolated = settings.enable_isolated_metadata
    mark = int(settings.metadata_access_mark.partition("/")[0], 0)
    if not 0 < mark <= _LARGEST_MARK:
        raise options.refuse(settings, "metadata_access_mark", "a number from 1 to 0xffff is allowed")
    return Options(
        force_metadata=settings.force_metadata,
        enable_isolated_metadata=_is_alone(settings) if isolated is None else isolated,
        enable_metadata_network=settings.enable_metadata_network,
        enable_metadata_proxy=settings.enable_metadata_proxy,
        metadata_port=settings.metadata_port,
        metadata_access_mark=mark,
        metadata_v4_prefixlen=settings.metadata_v4_prefixlen,
        ha_proxy_always=settings.ha_proxy_always,
        ipv6=namespaces.has_ipv6(),
        dhcp_lease_duration=settings.dhcp_lease_duration,
        dhcp_device_prefix="ns-" if settings.ovs_use_veth else "tap",
    )


# Each source imports its modules only when it is used: a node has one source of three.


def _of_file(path: Path) -> Callable[[], NodeView]:
    def read() -> NodeView:
        from mdmw.inventory.file import load
        from mdmw.node.file_view import view

        return view(load(path), path)

    return read


def _of_database(path: Path) -> tuple[Callable[[], Hashable], Callable[[], NodeView]]:
    from mdmw.inventory.sqlite import Reader
    from mdmw.node.file_view import view

    # A new reader for each view: one reader would keep the whole inventory in memory.
    return Reader(path).look, lambda: view(Reader(path).read(), path)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ctime_ns, stat.st_ino


def _of_neutron(
    settings: SimpleNamespace, ha_confs: Path
) -> tuple[Callable[[], Hashable], Callable[[], NodeView]]:
    from mdmw.node.neutron_view import HaStates, NeutronView
    from mdmw.resolvers.keystone import Keystone, load_credentials, store_for

    found = load_credentials(settings)
    limits = limits_of(settings, "neutron")
    keystone = Keystone(found, limits, store_for(found.plugin.get_cache_id(), settings.place))
    ha_states = HaStates(ha_confs, settings.ha_vrrp_advert_int)
    source = NeutronView(keystone.get, settings.host, ha_states)
    return (
        lambda: (_stamp(namespaces.RUN_NETNS), ha_states.look()),
        lambda: source.read(namespaces.names()),
    )
