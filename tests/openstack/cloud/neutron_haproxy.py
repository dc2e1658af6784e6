"""Run by Neutron's Python: haproxy's configuration for each scope, as Neutron's own driver writes it.

neutron_haproxy.py NEUTRON_CONF network|router=ID[=INTERFACE] ...: prints one path a line.
With an interface a network is served over IPv6 too, as the DHCP agent does it.
"""

import sys
from typing import Any

from neutron.agent.metadata import driver
from neutron.common import config
from neutron.conf.agent.metadata import config as metadata
from neutron_lib import constants
from oslo_config import cfg

_ROUTER_PORT = 9697


def main() -> None:
    """Write all of them."""
    load(sys.argv[1])
    for scope in sys.argv[2:]:
        address, port, names = arguments(scope)
        identity = scope.split("=")[1]
        names["pid_file"] = f"{cfg.CONF.state_path}/{identity}.pid.haproxy"
        haproxy = driver.MetadataDriver._get_haproxy_configurator(address, port, cfg.CONF, **names)
        haproxy.create_config_file()
        print(haproxy.cfg_path)


def load(*files: str) -> None:
    """The options of these files, as the agents have them."""
    config.register_common_config_options()
    metadata.register_meta_conf_opts(metadata.SHARED_OPTS)
    metadata.register_meta_conf_opts(metadata.METADATA_RATE_LIMITING_OPTS, group=metadata.RATE_LIMITING_GROUP)
    metadata.register_meta_conf_opts(metadata.METADATA_HAPROXY_OPTS, group=metadata.HAPROXY_GROUP)
    config.init([f"--config-file={file}" for file in files])


def arguments(scope: str) -> tuple[str, int, dict[str, Any]]:
    """What the DHCP or the L3 agent tells the driver: address, port, and more by name."""
    kind, identity, *interface = scope.split("=")
    if kind == "router":
        return "::", _ROUTER_PORT, {"router_id": identity}
    names = {"network_id": identity}
    if interface:
        names |= {"bind_address_v6": constants.METADATA_V6_IP, "bind_interface": interface[0]}
    return constants.METADATA_V4_IP, constants.METADATA_PORT, names


if __name__ == "__main__":
    main()
