"""mdmw doctor --guest: a script for inside a guest, run by the shells that guests have, in a namespace."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources

import pytest
from node.kvm_host import ip, obstacle
from site_of_doctor import Node

from mdmw.cli.main import main

SHELLS = {"sh": ["sh"], "dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}

needs_guest = pytest.mark.skipif(bool(obstacle("udhcpc")), reason=f"needs root and: {obstacle('udhcpc')}")


@pytest.fixture(scope="module")
def guest(node: Node) -> str:
    """The namespace of a guest with a lease, and the route that came with it."""
    space = node.host.guest(node.bridges[0], node.mac)
    node.host.lease(space, "udhcpc")
    return space


@pytest.fixture
def script(tmp_path, capsys) -> str:
    """As the command prints it."""
    assert main(["doctor", "--guest"]) == 0
    path = tmp_path / "guest.sh"
    path.write_text(capsys.readouterr().out)
    return str(path)


def run_in(space: str, script: str, shell: str = "dash", **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"]} | environ
    program, *words = SHELLS[shell]
    command = [shutil.which("ip"), "netns", "exec", space, shutil.which(program), *words, script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=clean)


def faults(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.stderr == "", done
    return [line for line in done.stdout.splitlines() if line.startswith("FAULT")]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_can_read_it(script: str, shell: str) -> None:
    subprocess.run([*SHELLS[shell], "-n", script], check=True, timeout=20)


@needs_guest
@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_is_wrong(node: Node, guest: str, script: str, shell: str) -> None:
    done = run_in(guest, script, shell)
    assert faults(done) == [], done.stdout
    assert done.returncode == 0
    assert f"instance {node.guest}" in done.stdout
    assert done.stdout.endswith("Nothing is wrong.\n")


@needs_guest
def test_without_curl(guest: str, script: str, tmp_path) -> None:
    """cirros has little more than busybox."""
    for name in ("ip", "busybox"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in ("wget", "sed", "head", "timeout", "true"):
        (tmp_path / name).symlink_to("busybox")
    done = run_in(guest, script, "busybox", PATH=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "answers: instance" in done.stdout


@contextlib.contextmanager
def without_route(node: Node, guest: str) -> Iterator[dict[str, str]]:
    ip(guest, "route delete 169.254.169.254/32")
    yield {}
    ip(guest, "route add 169.254.169.254/32 via 10.0.1.1")


@contextlib.contextmanager
def without_address(node: Node, guest: str) -> Iterator[dict[str, str]]:
    ip(guest, f"address delete {node.address}/24 dev eth0")
    yield {}
    ip(guest, f"address add {node.address}/24 dev eth0")
    ip(guest, "route add 169.254.169.254/32 via 10.0.1.1")


@contextlib.contextmanager
def with_a_proxy(node: Node, guest: str) -> Iterator[dict[str, str]]:
    yield {"http_proxy": "http://user:hunter2@proxy:3128"}


@contextlib.contextmanager
def with_nobody_there(node: Node, guest: str) -> Iterator[dict[str, str]]:
    node.stop()  # to want less would be undone by a look that is under way
    yield {}
    node.start()


@contextlib.contextmanager
def with_the_address_itself(node: Node, guest: str) -> Iterator[dict[str, str]]:
    ip(guest, "address add 169.254.169.254/32 dev lo")
    yield {}
    ip(guest, "address delete 169.254.169.254/32 dev lo")


@contextlib.contextmanager
def with_another_address(node: Node, guest: str) -> Iterator[dict[str, str]]:
    change_address(guest, node.address, "10.0.1.77")
    yield {}
    change_address(guest, "10.0.1.77", node.address)


def change_address(guest: str, old: str, new: str) -> None:
    ip(guest, f"address delete {old}/24 dev eth0")
    ip(guest, f"address add {new}/24 dev eth0")
    ip(guest, "route replace 169.254.169.254/32 via 10.0.1.1")


_FAULTS = {
    "no route": (without_route, "has no route to 169.254.169.254"),
    "no address": (without_address, "no network card has an IPv4 address"),
    "a proxy": (with_a_proxy, "http_proxy is set"),
    "nobody listens": (with_nobody_there, "cannot be reached"),
    "the address is its own": (with_the_address_itself, "an address of this machine itself"),
    "another address": (with_another_address, "answers 404"),
}


@needs_guest
@pytest.mark.parametrize("fault", _FAULTS)
def test_the_first_fault_is_the_cause(node: Node, guest: str, script: str, fault: str) -> None:
    plant, word = _FAULTS[fault]
    with plant(node, guest) as environ:
        done = run_in(guest, script, "busybox", **environ)
    assert word in faults(done)[0], done.stdout
    assert done.returncode == 1
    assert "hunter2" not in done.stdout


def test_it_is_shipped() -> None:
    assert (resources.files("mdmw.doctor") / "guest.sh").read_text().startswith("#!/bin/sh\n")
