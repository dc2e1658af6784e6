"""radvd: what the routers of a file announce (P-8)."""

from pathlib import Path

from mdmw.node.plan import RouterPlan
from mdmw.node.program import Program

_ALWAYS = "AdvSendAdvert on; MinRtrAdvInterval 30; MaxRtrAdvInterval 100;"


def radvd(plan: RouterPlan, directory: Path) -> Program:
    """The radvd of a router: itself as a way out, and its routes. The subnets dnsmasq announces.

    As often as Neutron's.
    """
    file = directory / "radvd.conf"
    argv = ("radvd", "-C", str(file), "-p", str(directory / "pid"), "-m", "stderr_clean", "-u", "nobody")
    parts = [f"interface {device} {{ {_ALWAYS} {route} }};\n" for device, route in plan.ra_routes]
    return Program(directory, argv, ((file, "".join(parts)),))
