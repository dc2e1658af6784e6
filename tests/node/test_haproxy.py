"""mdmw-haproxy: what Neutron's agents start, look for and stop (P-10 to P-13)."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import Site, namespaces, site
from hypothesis import given
from hypothesis import strategies as st
from servers.nova import Nova
from test_daemon_restart import ADDRESS, NETWORKS, Guest, agent  # noqa: F401 - a fixture

from mdmw.cli import haproxy
from mdmw.errors import ConfigError
from mdmw.node.namespaces import Bind
from mdmw.records import Scope

NETWORK = NETWORKS[0]
NAMESPACE = f"qdhcp-{NETWORK}"

_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)

# As neutron/agent/metadata writes it since 2026. LISTEN and HEADERS are where versions differ.
_TEXT = """
global
    log         /dev/log local0 info
    log-tag     haproxy-metadata-proxy-UUID
    user        nobody
    group       nogroup
    maxconn     1024
    nbthread    2
    pidfile     PIDFILE
    daemon

defaults
    log global
    mode http
    option httplog
    option dontlognull
    option http-server-close
    option forwardfor
    retries                 3
    timeout http-request    30s
    timeout connect         30s
    timeout client          32s
    timeout server          32s
    timeout http-keep-alive 30s
LISTEN
    server metadata /var/lib/neutron/metadata_proxy
HEADERS
"""
_LISTEN = "listen listener\n    "
_DHCP = _LISTEN + "bind 169.254.169.254:80\n    "
_NETWORK_HEADERS = """
    http-request del-header X-Neutron-Router-ID
    http-request set-header X-Neutron-Network-ID UUID
"""
_ROUTER_HEADERS = """
    http-request del-header X-Neutron-Network-ID
    http-request set-header X-Neutron-Router-ID UUID
"""
_RATE_LIMITED = """
backend base_rate_limiter
    stick-table type ip size 10k expire 10s store http_req_rate(10s)

listen listener
    bind 169.254.169.254:80

    http-request track-sc0 src table base_rate_limiter
    http-request deny deny_status 429 if { src_http_req_rate(base_rate_limiter) gt 10 }
"""
_V4 = Bind("169.254.169.254", 80)
_V6 = Bind("fe80::a9fe:a9fe", 80, "tap0a1b2c3d-4e")
_VERSIONS = {
    "network": (_DHCP, _NETWORK_HEADERS, "network", (_V4,)),
    "network-ipv6-2026": (
        _DHCP + "bind [fe80::a9fe:a9fe]:80 interface tap0a1b2c3d-4e",
        _NETWORK_HEADERS,
        "network",
        (_V4, _V6),
    ),
    "network-ipv6-2020": (
        _DHCP + "bind fe80::a9fe:a9fe:80 interface tap0a1b2c3d-4e",
        _NETWORK_HEADERS,
        "network",
        (_V4, _V6),
    ),
    "network-2017": (
        _LISTEN + "bind 0.0.0.0:80",
        "    http-request add-header X-Neutron-Network-ID UUID",
        "network",
        (Bind("0.0.0.0", 80),),
    ),
    "rate-limited": (_RATE_LIMITED, _NETWORK_HEADERS, "network", (_V4,)),
    "router-ipv6": (
        "listen listener\n    bind :::9697\n    ",
        _ROUTER_HEADERS,
        "router",
        (Bind("::", 9697),),
    ),
    "router": (
        "listen listener\n    bind 0.0.0.0:9697\n",
        _ROUTER_HEADERS,
        "router",
        (Bind("0.0.0.0", 9697),),
    ),
    "ovn": (_DHCP, "    http-request add-header X-OVN-Network-ID UUID", "network", (_V4,)),
}


def written(directory: Path, version: str = "network") -> Path:
    """A configuration as Neutron writes it; the pid file is to be beside it."""
    listen, headers, _, _ = _VERSIONS[version]
    path = directory / f"{NETWORK}.conf"
    text = _TEXT.replace("LISTEN", listen).replace("HEADERS", headers).replace("PIDFILE", str(path))
    path.write_text(text.replace(".conf\n", ".pid.haproxy\n").replace("UUID", NETWORK))
    return path


@pytest.mark.parametrize("version", _VERSIONS)
def test_p10_what_neutron_wrote_is_understood(version: str, tmp_path: Path, capsys) -> None:
    """P-10, 4.7: the id, where to bind, the pid file, user and group, in every version of the text."""
    _, _, kind, binds = _VERSIONS[version]
    found = haproxy.read(str(written(tmp_path, version)))
    assert found.scope == Scope(kind, NETWORK)
    assert found.binds == binds
    assert (found.pid_file, found.user, found.group) == (
        str(tmp_path / f"{NETWORK}.pid.haproxy"),
        "nobody",
        "nogroup",
    )
    assert ("rate limits" in capsys.readouterr().err) == (version == "rate-limited")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (f"set-header X-Neutron-Network-ID {NETWORK}", "", "one id and lines with bind"),
        (NETWORK, "1234", "not a UUID"),
        ("bind 169.254.169.254:80", "", "one id and lines with bind"),
        ("bind 169.254.169.254:80", "bind 10.0.0.1:80", "10.0.0.1:80"),
        ("bind 169.254.169.254:80", "bind 169.254.169.254:99999", "99999"),
        ("bind 169.254.169.254:80", "bind fe80::a9fe:a9fe:80", "fe80::a9fe:a9fe"),
        ("bind 169.254.169.254:80", "bind fe80::a9fe:a9fe:80 interface ../x", "../x"),
        ("pidfile ", "# ", "no pidfile"),
    ],
    ids=lambda value: value.replace(NETWORK, "NETWORK"),
)
def test_other_configurations_are_refused(old: str, new: str, named: str, tmp_path: Path, capsys) -> None:
    """One line, and status 1, which Neutron logs."""
    path = written(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    assert haproxy.main(["-f", str(path)]) == 1
    error = capsys.readouterr().err
    assert named in error
    assert error.startswith(f"mdmw-haproxy: {path}: ")
    assert error.count("\n") == 1


@given(st.text(), st.sampled_from(["bind ", "http-request set-header X-Neutron-Network-ID ", "pidfile ", ""]))
def test_any_text_is_read_or_refused(tmp_path_factory, text: str, start: str) -> None:
    """No other exception, whatever is in the file."""
    path = tmp_path_factory.getbasetemp() / "any.conf"
    path.write_bytes((start + text).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        haproxy.read(str(path))


@pytest.mark.parametrize("words", [["-v"], ["-vv"]])
def test_what_asks_for_the_version(words: list[str], capsys) -> None:
    assert haproxy.main(words) == 0
    assert "mdmw" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["-f"], ["--help"], ["-x", "y"]])
def test_other_command_lines(words: list[str], capsys) -> None:
    assert haproxy.main(words) == 1
    assert "haproxy -f FILE" in capsys.readouterr().err


# --- beside a daemon --------------------------------------------------------------------


class ProcessManager:
    """Does what neutron.agent.linux.external_process does: start, look, stop (P-12, P-13, P-14)."""

    def __init__(self, place: Site) -> None:
        self._place = place
        self._conf = written(place.directory)
        self.pid_file = self._conf.with_name(f"{NETWORK}.pid.haproxy")

    def enable(self) -> subprocess.CompletedProcess[str]:
        self.pid_file.unlink(missing_ok=True)
        command = ["ip", "netns", "exec", NAMESPACE, "env", f"PROCESS_TAG=haproxy-{NETWORK}"]
        return subprocess.run(
            [*command, sys.executable, "-m", "mdmw.cli.haproxy", "-f", str(self._conf)],
            env=os.environ | {"MDMW_NODE_SOCKET": str(self._place.directory / "node.sock")},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=30,
        )

    @property
    def pid(self) -> int | None:
        try:
            return int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None

    @property
    def active(self) -> bool:
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return NETWORK in b" ".join(words).decode()

    def disable(self, number: signal.Signals) -> None:
        assert self.pid
        os.kill(self.pid, number)
        os.waitpid(self.pid, 0)


@pytest.fixture
def place(agent: Nova) -> Iterator[Site]:  # noqa: F811 - the fixture
    with namespaces(NAMESPACE, addresses=[ADDRESS]), site(agent.path) as made:
        yield made


@pytest.fixture
def manager(place: Site) -> Iterator[ProcessManager]:
    manager = ProcessManager(place)
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # as init: what is left behind is ours to wait for
    yield manager
    if manager.active:
        manager.disable(signal.SIGKILL)
    libc.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def serves() -> None:
    Guest(NETWORK, keeps=False).ask()


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_p12_started_found_and_stopped(place: Site, manager: ProcessManager, number: signal.Signals) -> None:
    """P-12, P-13: active at once when it returns; a signal ends process and listener; then it starts anew."""
    place.started()
    for _ in range(2):
        done = manager.enable()
        assert (done.returncode, done.stderr) == (0, "")
        assert manager.active
        serves()
        assert [one["owner"] for one in place.listeners()] == [NETWORK]
        manager.disable(number)
        place.until(lambda: not place.listeners())
        with pytest.raises(OSError):
            serves()
        assert not manager.active


@needs_namespaces
def test_the_process_that_is_left_is_small(place: Site, manager: ProcessManager) -> None:
    """Less than 0.3 MiB of its own, no descriptors but the three, no privileges, its own session (P-11)."""
    place.started()
    assert manager.enable().returncode == 0
    process = Path(f"/proc/{manager.pid}")
    rollup = (process / "smaps_rollup").read_text()
    size = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    assert size < 300  # KiB; what it shares with others (libc) depends on how many they are
    assert {os.readlink(one) for one in (process / "fd").iterdir()} == {"/dev/null"}
    status = (process / "status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t65534\t65534" in status
    assert b"PROCESS_TAG=haproxy-" in (process / "environ").read_bytes()


def test_without_a_daemon(tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 1, one line that Neutron logs, after a short wait for a daemon that starts; nothing is left."""
    monkeypatch.setenv(haproxy.SOCKET_VARIABLE, str(tmp_path / "node.sock"))
    monkeypatch.setattr(haproxy, "_ABSENT_FOR", 0.2)
    path = written(tmp_path)
    assert haproxy.main(["-f", str(path)]) == 1
    assert capfd.readouterr().err == (
        f"mdmw-haproxy: {tmp_path}/node.sock: no keeper is there: No such file or directory\n"
    )
    assert list(tmp_path.iterdir()) == [path]


@needs_namespaces
def test_an_address_that_somebody_else_has(place: Site, manager: ProcessManager) -> None:
    """The daemon's words reach Neutron's log."""
    place.started()
    place.want([NAMESPACE, ["169.254.169.254", 80, None], ["network", NETWORK]])
    done = manager.enable()
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert manager.pid is None
    serves()


@needs_namespaces
def test_attachments_outlive_the_keeper(place: Site, manager: ProcessManager) -> None:
    """An upgrade, a kill, and a restart under systemd; each time the end of the process is noticed."""
    keeper = place.started()
    assert manager.enable().returncode == 0
    successor = place.started()
    assert keeper.wait(60) == 0
    serves()
    successor.kill()
    successor.wait()
    place.supervisor.drop()
    third = place.started()
    place.until(lambda: len(place.listeners()) == 1)
    serves()
    third.terminate()
    assert third.wait(60) == 0
    place.started(keep=list(place.supervisor.kept.items()))
    serves()
    assert [one["owner"] for one in place.listeners()] == [NETWORK]
    manager.disable(signal.SIGTERM)
    place.until(lambda: not place.listeners())


@needs_namespaces
def test_a_process_that_ended_while_there_was_no_keeper(place: Site, manager: ProcessManager) -> None:
    """Nothing is listened to for it, whoever has its number now."""
    keeper = place.started()
    assert manager.enable().returncode == 0
    keeper.terminate()
    assert keeper.wait(60) == 0
    manager.disable(signal.SIGKILL)
    place.started(keep=list(place.supervisor.kept.items()))
    assert place.listeners() == []
    assert place.supervisor.kept == {}
    assert "not attached again" in place.log
    assert "Traceback" not in place.log
