"""The options of a network node: those of Neutron's dhcp_agent.ini and l3_agent.ini, and a few of ours."""

import socket
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from oslo_config import cfg

from mdmw import options
from mdmw.node import namespaces
from mdmw.node.actions import FIREWALLS
from mdmw.node.ha_states import HaStates
from mdmw.node.plan import Options
from mdmw.node.programs import Places
from mdmw.node.view import View
from mdmw.resolvers import keystone
from mdmw.upstream.settings import limit_options, limits_of

_LARGEST_MARK = 0xFFFF

_PLAN = [
    cfg.BoolOpt("force_metadata", default=False, help="Every network with DHCP is served by its DHCP port."),
    cfg.BoolOpt(
        "enable_isolated_metadata",
        deprecated_name="enable_isolated_metadata_proxy",
        help="Networks without a router at their gateway are served by their DHCP port. "
        "Default: true without Neutron, else false.",
    ),
    cfg.BoolOpt("enable_metadata_network", default=False, help="Serve routers by metadata access networks."),
    cfg.BoolOpt("enable_metadata_proxy", default=True, help="Routers serve the networks behind them."),
    cfg.PortOpt("metadata_port", default=9697, min=1, help="Where a router's guests arrive."),
    cfg.StrOpt(
        "metadata_access_mark",
        default="0x1",
        regex="^(0x[0-9a-fA-F]{1,4}|[0-9]{1,5})(/0x[fF]{1,4})?$",
        help="The mark of packets to the metadata address, of 16 bits.",
    ),
    cfg.IntOpt("metadata_v4_prefixlen", default=32, min=16, max=32, help="16 as in 2013."),
    cfg.IntOpt(
        "ha_vrrp_advert_int", default=2, min=0, help="Seconds that a router is primary till it counts."
    ),
    cfg.BoolOpt("ha_proxy_always", default=False, help="HA routers are listened in on every node."),
    cfg.IntOpt("dhcp_lease_duration", default=86400, min=120, help="Seconds; of our own dnsmasq."),
    cfg.BoolOpt("ovs_use_veth", default=False, help="The device of a DHCP port is called ns-, not tap."),
]

OPTIONS = [
    *_PLAN,
    *keystone.OPTIONS,
    *limit_options("neutron", read_timeout=30.0, total_timeout=60.0),
    cfg.StrOpt(
        "host", default=socket.gethostname(), sample_default="<host name>", help="As Neutron's agents."
    ),
    cfg.StrOpt("state_path", default="/var/lib/neutron", help="Where Neutron keeps its state."),
    cfg.StrOpt("ha_confs_path", help="The L3 agent's files of HA routers; default: $state_path/ha_confs."),
    cfg.StrOpt("dhcp_confs", help="The DHCP agent's files of networks; default: $state_path/dhcp."),
    cfg.StrOpt("inventory", help="The file that says what there is, instead of Neutron."),
    cfg.StrOpt("inventory_db", help="The database that says what there is, in place of the file."),
    cfg.StrOpt("node_state_path", default=str(Places().state), help="Where mdmw keeps what it made."),
    cfg.StrOpt("firewall", default=FIREWALLS[0], choices=FIREWALLS, help="By which rules are made."),
]


@dataclass(frozen=True, slots=True)
class Node:
    """What the options say: how to plan, where to apply, and `view`, which reads what there is.

    `view` raises `Unavailable` when Neutron cannot be asked, and `ConfigError` for a file with a mistake.
    When `look` says something else there is probably something new to read at `watched`; `is_polled` says
    that there may be at any time.
    """

    options: Options
    places: Places
    watched: Path
    is_polled: bool
    look: Callable[[], Hashable]
    view: Callable[[], View]


def load(given: Mapping[str, str]) -> Node:
    """From options by name, `config_file` and `config_dir` among them; raises `ConfigError`."""
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
        return Node(plan_options, places, path, False, *_of_database(path))
    if settings.inventory:
        path = Path(settings.inventory)
        return Node(plan_options, places, path, False, partial(_stamp, path), _of_file(path))
    path = namespaces.RUN_NETNS
    ha_confs = Path(settings.ha_confs_path) if settings.ha_confs_path else state_path / "ha_confs"
    ha_states = HaStates(ha_confs, settings.ha_vrrp_advert_int)
    return Node(
        plan_options,
        places,
        path,
        True,
        lambda: (_stamp(path), ha_states.look()),
        _of_neutron(settings, ha_states),
    )


def _is_alone(settings: SimpleNamespace) -> bool:
    """There is no Neutron."""
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


# A source imports what it needs: of three a node has one, and a planner that waits for a file reads none.


def _of_file(path: Path) -> Callable[[], View]:
    def read() -> View:
        from mdmw.inventory.file import load
        from mdmw.node.file_view import view

        return view(load(path), path)

    return read


def _of_database(path: Path) -> tuple[Callable[[], Hashable], Callable[[], View]]:
    from mdmw.inventory.sqlite import Reader
    from mdmw.node.file_view import view

    # A reader that stays would keep the whole inventory in memory.
    return Reader(path).look, lambda: view(Reader(path).read(), path)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ctime_ns, stat.st_ino


def _of_neutron(settings: SimpleNamespace, ha_states: HaStates) -> Callable[[], View]:
    from mdmw.node.neutron_view import NeutronView
    from mdmw.resolvers.keystone import Keystone, load_credentials, store_for

    found = load_credentials(settings)
    limits = limits_of(settings, "neutron")
    keystone = Keystone(found, limits, store_for(found.plugin.get_cache_id(), settings.place))
    source = NeutronView(keystone.get, settings.host, ha_states)
    return lambda: source.read(namespaces.names())
