"""Run by Neutron's Python: haproxy's configuration for each scope, as Neutron's own driver writes it.

neutron_haproxy.py NEUTRON_CONF network|router=ID[=INTERFACE] ...: prints one path a line.
With an interface a network is served over IPv6 too, as the DHCP agent does it.
"""

import sys

from neutron.agent.metadata import driver
from neutron.common import config
from neutron.conf.agent.metadata import config as metadata
from neutron_lib import constants
from oslo_config import cfg

_ROUTER_PORT = 9697


def main() -> None:
    """Write all of them."""
    config.register_common_config_options()
    metadata.register_meta_conf_opts(metadata.SHARED_OPTS)
    metadata.register_meta_conf_opts(metadata.METADATA_RATE_LIMITING_OPTS, group=metadata.RATE_LIMITING_GROUP)
    metadata.register_meta_conf_opts(metadata.METADATA_HAPROXY_OPTS, group=metadata.HAPROXY_GROUP)
    config.init(["--config-file", sys.argv[1]])
    for scope in sys.argv[2:]:
        haproxy = _configurator(*scope.split("="))
        haproxy.create_config_file()
        print(haproxy.cfg_path)


def _configurator(kind: str, identity: str, interface: str | None = None) -> driver.HaproxyConfigurator:
    pid_file = f"{cfg.CONF.state_path}/{identity}.pid.haproxy"
    if kind == "router":
        where, names = ("::", _ROUTER_PORT), {"router_id": identity}
    else:
        where, names = (constants.METADATA_V4_IP, constants.METADATA_PORT), {"network_id": identity}
    if interface:
        names |= {"bind_address_v6": constants.METADATA_V6_IP, "bind_interface": interface}
    return driver.MetadataDriver._get_haproxy_configurator(*where, cfg.CONF, pid_file=pid_file, **names)


if __name__ == "__main__":
    main()
