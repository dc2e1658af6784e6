"""mdmw-ns-metadata-proxy as a process, in a namespace: P-9 and P-11 to P-13."""

import contextlib
import os
import pwd
import re
import secrets
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from daemons import BLUE, program, refusal, running
from peers import PATIENCE, answers, response

from mdmw.cli.ns_metadata_proxy import PidFile, main
from mdmw.errors import ConfigError
from mdmw.node import namespaces, sandbox

ROUTER = "b28e6f41-5d07-49ca-8c9f-13a4d7e0b652"
PROXY = program("mdmw-ns-metadata-proxy")
FINE = answers(response("200 OK", b"fine", "Content-Type: text/plain"))
GUEST, GUEST_V6 = "10.0.0.5", "2001:db8::5"
PRIVATE_V6, MAC = "fe80::1234:5678:9abc:def0", "fa:16:3e:00:00:05"

obstacle = sandbox.obstacle()
needs_namespace = pytest.mark.skipif(bool(obstacle), reason=f"needs a network namespace: {obstacle}")


@pytest.fixture
def namespace():
    """With the addresses of the proxy and a guest on its loopback device."""
    name = f"mdmw-{secrets.token_hex(3)}"
    namespaces.run("ip", "netns", "add", name)
    try:
        namespaces.run("ip", "-n", name, "link", "set", "lo", "up")
        for address in ("169.254.169.254/32", f"{GUEST}/32", f"{GUEST_V6}/128"):
            nodad = ["nodad"] if ":" in address else []
            namespaces.run("ip", "-n", name, "address", "add", address, "dev", "lo", *nodad)
        yield name
    finally:
        namespaces.run("ip", "netns", "delete", name)


@pytest.fixture
def guest_namespace(namespace):
    """A guest on a wire to tap0 of the other namespace, with a link-local address of its own choice."""
    name = f"{namespace}-guest"
    namespaces.run("ip", "netns", "add", name)
    try:
        ends = ["tap0", "netns", namespace, "type", "veth", "peer", "name", "eth0", "netns", name]
        namespaces.run("ip", "link", "add", *ends)
        for space, device, address in ((namespace, "tap0", "fe80::a9fe:a9fe"), (name, "eth0", PRIVATE_V6)):
            namespaces.run("ip", "-n", space, "link", "set", device, "addrgenmode", "none")
            if device == "eth0":
                namespaces.run("ip", "-n", space, "link", "set", device, "address", MAC)
            namespaces.run("ip", "-n", space, "address", "add", f"{address}/64", "dev", device, "nodad")
            namespaces.run("ip", "-n", space, "link", "set", device, "up")
        yield name
    finally:
        namespaces.run("ip", "netns", "delete", name)


@pytest.fixture
def folder(open_path):
    """Where another user may look into."""
    return open_path


@pytest.fixture
def agent(peers):
    peer = peers.unix(FINE)
    os.chmod(peer.address.path, 0o666)
    os.chmod(Path(peer.address.path).parent, 0o755)
    return peer


@contextlib.contextmanager
def started(command, pid_file):
    """A proxy in the background; its number. It is up when the command has returned."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(Path(pid_file).read_text())
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)


def wait_for_end(pid):
    """Seconds until a process, not ours to wait for, is gone."""
    began = time.monotonic()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0.0
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(PATIENCE * 1000), "the process does not end"
    finally:
        os.close(descriptor)
    return time.monotonic() - began


def inside(namespace, *words):
    return ["ip", "netns", "exec", namespace, PROXY, *words]


def curl(namespace, url, source, *words):
    """Status and body as a guest at `source` in the namespace sees them."""
    command = ["ip", "netns", "exec", namespace, "curl", "-sg", "--max-time", "10", "--interface", source]
    done = subprocess.run(
        [*command, "-w", "\n%{http_code}", *words, url], capture_output=True, text=True, check=True
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def status_of(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: re.search(rf"^{name}:(.*)", text, re.M)[1].split() for name in ("Uid", "Gid", "Groups")}


# --- P-9: the arguments -----------------------------------------------------------------


@needs_namespace
@pytest.mark.parametrize("name", ["mdmw", "neutron", "quantum"])
@pytest.mark.parametrize("form", ["--opt=value", "--opt value"])
def test_p_9_the_historic_command_line(namespace, agent, folder, name, form):
    """P-9: as the L3 agent started it, by each of its names; forged headers change nothing."""
    pid_file, log = folder / "pid", folder / "proxy.log"
    arguments = {
        "--pid_file": pid_file,
        "--metadata_proxy_socket": agent.address.path,
        "--router_id": ROUTER,
        "--state_path": "/var/lib/neutron",
        "--metadata_port": 9697,
        "--metadata_proxy_user": os.geteuid(),
        "--metadata_proxy_group": os.getegid(),
        "--log-file": log.name,
        "--log-dir": folder,
    }
    words = [word for pair in arguments.items() for word in map(str, pair)]
    if form == "--opt=value":
        words = [f"{option}={value}" for option, value in arguments.items()]
    command = ["ip", "netns", "exec", namespace, program(f"{name}-ns-metadata-proxy"), *words]
    with started([*command, "--debug", "--verbose", "--daemonize"], pid_file):
        forged = ["-H", "X-Forwarded-For: 10.0.0.6", "-H", f"X-Neutron-Network-ID: {BLUE}"]
        assert curl(namespace, "http://169.254.169.254:9697/latest/", GUEST, *forged) == (200, "fine")
    (received,) = agent.requests
    assert received.value("X-Neutron-Router-ID") == ROUTER
    assert received.value("X-Neutron-Network-ID") is None
    assert received.value("X-Forwarded-For") == GUEST


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "exactly one of --network_id and --router_id"),
        (["--network_id", BLUE, "--router_id", ROUTER], "exactly one of --network_id and --router_id"),
        (["--network_id", "blue"], "'blue' is not a UUID"),
        (["--router_id", f"{ROUTER} x"], "is not a UUID"),
        (["--network_id", BLUE, "--metadata_port", "http"], "'metadata_port'"),
        (["--network_id", BLUE, "--metadata_port", "0"], "'metadata_port'"),
        (["--network_id", BLUE, "--bind", "here"], "cannot listen on port 9697 of here"),
        (["--network_id", BLUE, "--bind", "192.0.2.1"], "cannot listen on port 9697 of 192.0.2.1"),
        (["--network_id", BLUE, "--pid_file", "/none/pid"], "'pid_file': /none/pid: No such file"),
        (["--network_id", BLUE, "--metadata_proxy_socket", "relative"], "must be absolute"),
        (["--network_id", BLUE, "--metadata_proxy_user", "nobody-of-this-name"], "'nobody-of-this-name'"),
        (["--network_id", BLUE, "--metadata_proxy_group", "nobody-of-this-name"], "'nobody-of-this-name'"),
        (["--network_id", BLUE, "--config-file", "/etc/neutron/neutron.conf"], "unrecognized arguments"),
        (["--network_id"], "expected one argument"),
    ],
)
def test_p_9_p_11_what_is_wrong_is_one_line_and_status_2(capsys, words, said):
    """P-9, P-11: refused in the foreground, whether it would go into the background or not."""
    for more in ([], ["--nodaemonize"]):
        assert main([*words, *more]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("mdmw-ns-metadata-proxy: ")
        assert said in err


def test_a_refusal_of_the_process():
    assert "exactly one of" in refusal([PROXY])


@needs_namespace
def test_a_fault_in_the_background_is_told_in_the_foreground(namespace, folder):
    line = refusal(
        inside(namespace, "--network_id", BLUE, "--log-file", "/none/log", "--pid-file", folder / "pid")
    )
    assert "the log cannot be opened" in line
    assert not (folder / "pid").exists()


@needs_namespace
def test_a_port_that_is_taken(namespace, folder):
    descriptor = namespaces.open_namespace(namespace)
    [taken] = namespaces.listen_in(descriptor, [namespaces.Bind("::", 9697)])
    os.close(descriptor)
    with taken:
        line = refusal(inside(namespace, "--network_id", BLUE, "--pid-file", folder / "pid"))
    assert "cannot listen on port 9697 of all addresses: Address already in use" in line
    assert not (folder / "pid").exists()


def test_help():
    said = subprocess.run([PROXY, "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--network-id", "--router-id", "--metadata-proxy-user", "--pid-file", "--nodaemonize"):
        assert option in said


# --- where it listens -------------------------------------------------------------------


@needs_namespace
def test_ipv4_and_ipv6_on_one_port(namespace, agent, folder):
    """Spec 4.7: one dual-stack listener; an IPv4 guest has its IPv4 name."""
    command = inside(namespace, "--router_id", ROUTER, "--metadata_proxy_socket", agent.address.path)
    with started([*command, "--pid_file", folder / "pid"], folder / "pid"):
        assert curl(namespace, "http://169.254.169.254:9697/", GUEST)[0] == 200
        assert curl(namespace, f"http://[{GUEST_V6}]:9697/", GUEST_V6)[0] == 200
    assert [received.value("X-Forwarded-For") for received in agent.requests] == [GUEST, GUEST_V6]


@needs_namespace
def test_r_8_only_the_metadata_addresses(namespace, guest_namespace, agent, folder):
    """Spec 4.7: a network's two addresses and no other. R-8: the MAC of a guest whose address hides it."""
    command = inside(namespace, "--network_id", BLUE, "--metadata_proxy_socket", agent.address.path)
    words = [
        "--metadata_port=80",
        "--bind=169.254.169.254,fe80::a9fe:a9fe%tap0",
        "--pid_file",
        folder / "pid",
    ]
    with started([*command, *words], folder / "pid"):
        assert curl(namespace, "http://169.254.169.254/", GUEST)[0] == 200
        assert curl(guest_namespace, "http://[fe80::a9fe:a9fe%25eth0]/", "eth0")[0] == 200
        with pytest.raises(subprocess.CalledProcessError):
            curl(namespace, f"http://{GUEST}/", GUEST)
    v4, v6 = agent.requests
    assert v4.value("X-Forwarded-For") == GUEST
    assert v6.value("X-Forwarded-For") == PRIVATE_V6
    assert v6.value("X-Mdmw-Client-MAC") == MAC


# --- P-11: privileges -------------------------------------------------------------------


@needs_namespace
@pytest.mark.parametrize(
    "words",
    [
        ["--metadata_proxy_user=nobody", "--metadata_proxy_group=nogroup"],
        ["--metadata_proxy_user=65534", "--metadata_proxy_group=65534"],
        ["--metadata_proxy_user=nobody"],
    ],
    ids=["names", "numbers", "user alone"],
)
def test_p_11_it_listens_first_and_then_is_nobody(namespace, agent, folder, words):
    """P-11: on a port of root, with no group left over; and still logs to a file of root."""
    nobody = pwd.getpwnam("nobody")
    log = folder / "proxy.log"
    command = inside(namespace, "--network_id", BLUE, "--metadata_proxy_socket", agent.address.path)
    more = ["--metadata_port=80", "--pid_file", folder / "pid", "--log-file", log]
    with started([*command, *words, *more, "--nometadata_proxy_watch_log"], folder / "pid") as pid:
        assert status_of(pid) == {
            "Uid": [str(nobody.pw_uid)] * 4,
            "Gid": [str(nobody.pw_gid)] * 4,
            "Groups": [],
        }
        assert curl(namespace, "http://169.254.169.254/", GUEST) == (200, "fine")
        agent.close()
        assert curl(namespace, "http://169.254.169.254/", GUEST)[0] == 503
        assert "no connection to unix:" in log.read_text()


# --- P-12: the pid file -----------------------------------------------------------------


@needs_namespace
def test_p_12_the_pid_file(namespace, agent, folder):
    """P-12: locked while it runs, and names a process whose command line has the id; one at a time."""
    pid_file = folder / "pid"
    pid_file.write_text("999999999")  # stale
    command = inside(namespace, "--network_id", BLUE, "--metadata_proxy_socket", agent.address.path)
    words = [*command, "--pid_file", pid_file]
    with started(words, pid_file) as pid:
        assert BLUE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        line = refusal([*words, "--metadata_port=9698"])
        assert f"a proxy runs already, with pid {pid}" in line
        assert pid_file.read_text() == f"{pid}\n"
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        assert pid_file.exists()
        with started(words, pid_file) as successor:
            assert successor != pid


def test_p_12_a_process_counts_by_its_command_line(tmp_path):
    """P-12: a number that is another's by now is stale; a living proxy's is not, though it took no lock."""
    path = tmp_path / "pid"
    with subprocess.Popen(["sleep", "60"]) as other:
        path.write_text(str(other.pid))
        pid_file = PidFile(str(path), BLUE)
        pid_file.write()
        assert path.read_text() == f"{os.getpid()}\n"
        pid_file.remove()
        other.kill()
    command = ["sh", "-c", "echo up; read line", "haproxy", BLUE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as alive:
        assert alive.stdout.readline() == b"up\n"
        path.write_text(f"{alive.pid}\n")
        with pytest.raises(ConfigError, match=f"with pid {alive.pid}"):
            PidFile(str(path), BLUE)


@pytest.mark.parametrize("content", ["", "garbage", "-1", "1" * 100])
def test_a_pid_file_with_anything_in_it(tmp_path, content):
    path = tmp_path / "pid"
    path.write_text(content)
    PidFile(str(path), BLUE).remove()
    assert not path.exists()


# --- P-13: the end ----------------------------------------------------------------------


@needs_namespace
def test_p_13_sigterm_ends_it_within_5_seconds(namespace, peers, folder):
    """P-13: with a guest that waits for a silent agent, too; the pid file is gone."""
    asked = threading.Event()

    def silent(conversation):
        conversation.request()
        asked.set()
        conversation.hold()

    agent = peers.unix(silent)
    command = inside(namespace, "--network_id", BLUE, "--metadata_proxy_socket", agent.address.path)
    with started([*command, "--pid_file", folder / "pid"], folder / "pid") as pid:
        guest = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                namespace,
                "curl",
                "-s",
                "--interface",
                GUEST,
                "http://169.254.169.254:9697/",
            ]
        )
        try:
            assert asked.wait(PATIENCE)
            os.kill(pid, signal.SIGTERM)
            assert wait_for_end(pid) < 5
        finally:
            guest.kill()
            guest.wait()
        assert not (folder / "pid").exists()


@needs_namespace
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_p_13_an_idle_one_ends_at_once(namespace, agent, folder, number):
    command = inside(namespace, "--network_id", BLUE, "--metadata_proxy_socket", agent.address.path)
    with started([*command, "--pid_file", folder / "pid"], folder / "pid") as pid:
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGUSR1)
        assert curl(namespace, "http://169.254.169.254:9697/", GUEST)[0] == 200
        os.kill(pid, number)
        assert wait_for_end(pid) < 2
        assert not (folder / "pid").exists()


@needs_namespace
def test_p_13_a_pid_file_of_root_is_left_empty(namespace, agent, folder):
    """P-13, LP#1907695: who has become nobody cannot remove it; it names nobody any more, and is free."""
    command = inside(namespace, "--network_id", BLUE, "--metadata_proxy_socket", agent.address.path)
    words = [*command, "--metadata_proxy_user=nobody", "--pid_file", folder / "pid"]
    with started(words, folder / "pid") as pid:
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pid)
        assert (folder / "pid").read_text() == ""
        with started(words, folder / "pid"):
            pass


@needs_namespace
def test_in_the_foreground(namespace, agent, folder):
    """--nodaemonize: logs to standard error; what is under way at SIGTERM is answered; status 0."""
    command = inside(namespace, "--network_id", BLUE, "--metadata_proxy_socket", agent.address.path)
    with running([*command, "--nodaemonize", "--pid_file", folder / "pid", "--debug"]) as proxy:
        wait_for_listener(namespace)
        assert curl(namespace, "http://169.254.169.254:9697/", GUEST)[0] == 200
        assert int((folder / "pid").read_text()) == proxy.process.pid
        proxy.signal(signal.SIGTERM)
        assert proxy.status() == 0


def wait_for_listener(namespace):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        said = subprocess.run(
            ["ip", "netns", "exec", namespace, "ss", "-tlnH"], capture_output=True, text=True, check=True
        )
        if ":9697" in said.stdout:
            return
    raise AssertionError("nobody listens")
