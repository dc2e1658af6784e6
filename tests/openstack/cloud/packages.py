"""What has to be installed: Debian packages, and a virtualenv per project with frozen versions."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .state import CONSTRAINTS, State

_NEED = Path(__file__).parents[3] / "tools" / "need"
_PROGRAMS = (
    *("ip=iproute2", "iptables-restore=iptables", "haproxy=haproxy"),
    *("dnsmasq=dnsmasq-base", "udhcpc=udhcpc", "nft=nftables", "curl=curl"),
    *("mariadbd=mariadb-server", "rabbitmq-server=rabbitmq-server"),
)
_POLICY = Path("/usr/sbin/policy-rc.d")
PROJECTS = ("keystone", "neutron", "nova")
# The drivers and the server that the projects leave to the operator.
_BESIDE = ("pymysql", "gunicorn")


def install_programs() -> None:
    """Debian's programs; without starting the services that come with them."""
    with _no_service_starts():
        subprocess.run([_NEED, *_PROGRAMS], check=True)


def make_virtualenv(state: State, project: str) -> None:
    """The virtualenv of `project`, unless there is one with the versions of its constraints file."""
    constraints = CONSTRAINTS / f"{project}.txt"
    directory = state.virtualenv(project)
    made_with = directory / "constraints.txt"
    if made_with.exists() and made_with.read_bytes() == constraints.read_bytes():
        return
    with state.log(f"pip-{project}").open("wb") as log:
        for command in (
            [sys.executable, "-m", "venv", "--clear", directory],
            [directory / "bin/pip", "install", "--no-compile", "-c", constraints, project, *_BESIDE],
        ):
            subprocess.run(command, stdout=log, stderr=log, check=True)
    made_with.write_bytes(constraints.read_bytes())


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian's own way of saying so, if nobody has said it yet."""
    try:
        with _POLICY.open("x", encoding="ascii") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    try:
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink()
