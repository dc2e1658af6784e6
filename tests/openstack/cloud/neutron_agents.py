"""Run by Neutron's Python: what the DHCP and L3 agents do for metadata, by Neutron's own driver and monitor.

neutron_agents.py FILE ...: the files have options. Orders come by standard input, a line each, with a
scope as in neutron_haproxy.py: `spawn SCOPE`, `look SCOPE`, `destroy SCOPE`. To each the answer is a line
of JSON: what Neutron's process manager then knows. At the end of the orders nothing is destroyed, as when
an agent is stopped.
"""

import json
import os
import sys
from typing import Any

import neutron_haproxy
from neutron.agent.linux.external_process import ProcessMonitor
from neutron.agent.metadata.driver import MetadataDriver
from neutron.conf.agent import common
from oslo_config import cfg


def main() -> None:
    """Obey."""
    common.register_root_helper(cfg.CONF)
    neutron_haproxy.load(*sys.argv[1:])
    common.setup_privsep()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what Neutron starts writes its log there
    monitor = ProcessMonitor(cfg.CONF, "metadata")
    try:
        for line in sys.stdin:
            order, scope = line.split()
            print(json.dumps(_obey(monitor, order, scope)), file=answers, flush=True)
    finally:
        monitor.stop()


def _obey(monitor: ProcessMonitor, order: str, scope: str) -> dict[str, Any]:
    kind, identity, *_ = scope.split("=")
    namespace = f"qdhcp-{identity}" if kind == "network" else f"qrouter-{identity}"
    if order == "spawn":
        address, port, names = neutron_haproxy.arguments(scope)
        MetadataDriver.spawn_monitored_metadata_proxy(
            monitor, namespace, port, cfg.CONF, bind_address=address, **names
        )
    elif order == "destroy":
        MetadataDriver.destroy_monitored_metadata_proxy(monitor, identity, cfg.CONF, namespace)
    manager = MetadataDriver._get_metadata_proxy_process_manager(identity, cfg.CONF, ns_name=namespace)
    return {"active": manager.active, "pid": manager.pid, "pid_file": manager.get_pid_file_name()}


if __name__ == "__main__":
    main()
