"""mdmw-metadata-agent as a process: Neutron's command line and files, its socket, its end (spec 5.1)."""

import os
import pwd
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from daemons import (
    HUP,
    INVENTORY,
    LISTENING,
    TERM,
    agent_files,
    ask,
    program,
    refusal,
    running,
    verifying,
    write_options,
)
from peers import PATIENCE, response

from mdmw.cli.metadata_agent import AgentSocket, mode_of
from mdmw.identity import Identity, identity_of, own_identity
from mdmw.observe import processes

AGENT = program("mdmw-metadata-agent")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a process becomes another user")


@pytest.fixture
def nova(peers):
    return peers.unix(verifying(["s3cret"]))


def facts(pid):
    """Real, effective, saved ids and the groups of a process."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return {name: fields[name].split() for name in ("Uid", "Gid", "Groups")}


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- the command line and the files -----------------------------------------------------


def test_neutrons_own_files(nova, tmp_path):
    """neutron.conf is full of other things; the last file wins; nothing of theirs is logged."""
    with running(agent_files(tmp_path, nova), LISTENING) as agent:
        assert ask(tmp_path / "metadata_proxy").body == b"fine"
        agent.signal(TERM)
        assert agent.status() == 0
    (received,) = nova.requests
    assert received.value("X-Instance-ID")
    assert agent.count("hunter2") == agent.count("s3cret") == 0


SEED_001 = """
[DEFAULT]
auth_url = http://controller:5000/v2.0
auth_region = RegionOne
admin_tenant_name = service
admin_user = neutron
admin_password = admin_pass
nova_metadata_ip = {nova}
metadata_proxy_shared_secret = s3cret
state_path = {folder}
resolver = inventory
inventory_file = {inventory}
"""


def test_the_recipe_of_2013(nova, tmp_path):
    """Spec 5.3, seed 001: its names parse; what is called otherwise today is said once; no password."""
    file = tmp_path / "metadata_agent.ini"
    file.write_text(SEED_001.format(nova=nova.address, folder=tmp_path, inventory=INVENTORY))
    with running([AGENT, "--config-file", file], LISTENING) as agent:
        assert ask(tmp_path / "metadata_proxy").status == 200
        agent.signal(TERM)
        agent.status()
    said = [line for line in agent.lines if "nova_metadata_ip" in line]
    assert len(said) == 1
    assert "WARNING" in said[0]
    assert "nova_metadata_host" in said[0]
    assert agent.count("admin_pass") == 0


def test_a_directory_of_files_and_all_the_log_options(nova, tmp_path):
    """--config-dir is read last; --log-dir and what init scripts pass beside it."""
    folder = tmp_path / "conf.d"
    folder.mkdir()
    command = agent_files(tmp_path, nova, nova_metadata_host="unix:/nowhere")
    write_options(folder / "10-nova.conf", {"nova_metadata_host": nova.address})
    log = tmp_path / "agent.log"
    words = ["--config-dir", folder, f"--log-dir={tmp_path}", "--log_file", log.name, "--debug", "--verbose"]
    words += ["--nouse-syslog", "--nouse-json", "--syslog-log-facility=LOG_DAEMON"]
    with running([*command, *words, "--watch-log-file", "--nouse-journal"]) as agent:
        wait_until_there(tmp_path / "metadata_proxy")
        assert ask(tmp_path / "metadata_proxy").status == 200
        agent.signal(TERM)
        assert agent.status() == 0
    assert agent.lines == []
    assert LISTENING in log.read_text()


@pytest.mark.parametrize("said", [{}, {"metadata_proxy_socket": "$state_path/metadata_proxy"}], ids=str)
def test_the_state_path_of_the_command_line(nova, tmp_path, said):
    """The default of metadata_proxy_socket, and as the sample file of Neutron writes it."""
    write_options(
        tmp_path / "metadata_agent.ini",
        {
            "nova_metadata_host": nova.address,
            "metadata_proxy_shared_secret": "s3cret",
            "resolver": "inventory",
            "inventory_file": INVENTORY,
        }
        | said,
    )
    command = [AGENT, "--config-file", tmp_path / "metadata_agent.ini", "--state_path", tmp_path / "state"]
    with running(command, LISTENING):
        assert ask(tmp_path / "state" / "metadata_proxy").status == 200
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["--frobnicate"], {}, "unrecognized arguments: --frobnicate"),
        (["rest"], {}, "unrecognized arguments: rest"),
        (["--config-file", "/none.ini"], {}, "/none.ini"),
        (["--log-file", "/none/log"], {}, "the log cannot be opened: "),
        (["--user", "nobody-of-this-name"], {}, "user 'nobody-of-this-name' is unknown"),
        (["--group", "nobody-of-this-name"], {}, "group 'nobody-of-this-name' is unknown"),
        (["--user", "54321"], {}, "its group must be given too"),
        ([], {"metadata_workers": "many"}, "'metadata_workers'"),
        ([], {"metadata_workers": -1}, "'metadata_workers'"),
        ([], {"metadata_backlog": 0}, "'metadata_backlog'"),
        ([], {"metadata_proxy_socket_mode": "0666"}, "'metadata_proxy_socket_mode'"),
        ([], {"metadata_proxy_user": "nobody-of-this-name"}, "'nobody-of-this-name'"),
        ([], {"metadata_proxy_socket": "$nowhere/socket"}, "'metadata_proxy_socket': "),
        ([], {"metadata_proxy_socket": "/proc/socket"}, "'metadata_proxy_socket': /proc/socket: "),
        ([], {"metadata_proxy_socket": "/tmp/" + "x" * 120}, "AF_UNIX path too long"),
        ([], {"metadata_proxy_shared_secret": []}, "a secret is required"),
        ([], {"nova_metadata_port": "http"}, "nova_metadata_port"),
        ([], {"nova_client_cert": "/cert.pem"}, "'nova_client_priv_key'"),
        ([], {"resolver": "neutrino"}, "no resolver 'neutrino'"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(nova, tmp_path, words, more, said):
    line = refusal([*agent_files(tmp_path, nova, **more), *words])
    assert line.startswith("mdmw-metadata-agent: ")
    assert said in line
    assert not (tmp_path / "metadata_proxy").exists()


def test_a_file_that_does_not_parse_shows_no_secret(nova, tmp_path):
    command = agent_files(tmp_path, nova)
    (tmp_path / "metadata_agent.ini").write_text("[DEFAULT]\nmetadata_proxy_shared_secret hunter2\n")
    line = refusal(command)
    assert str(tmp_path / "metadata_agent.ini") in line
    assert "hunter2" not in line


def test_help_and_version():
    said = subprocess.run([AGENT, "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--config-file", "--config-dir", "--log-file", "--state-path", "--user"):
        assert option in said
    assert subprocess.run([AGENT, "--version"], capture_output=True, check=True).stdout


# --- the socket -------------------------------------------------------------------------

ROOT, NEUTRON, NOBODY = Identity(0, 0), Identity(107, 107), Identity(65534, 65534)


@pytest.mark.parametrize(
    ("setting", "user", "group", "proxy", "agent", "mode"),
    [
        ("deduce", "", "", ROOT, ROOT, 0o600),
        ("deduce", "", "", NEUTRON, NEUTRON, 0o600),
        ("deduce", "root", "", ROOT, NEUTRON, 0o600),
        ("deduce", "0", "", ROOT, NEUTRON, 0o600),
        ("deduce", "neutron", "neutron", NEUTRON, NEUTRON, 0o600),
        ("deduce", "nobody", "", NOBODY, NEUTRON, 0o660),
        ("deduce", "nobody", "neutron", Identity(65534, 107), NEUTRON, 0o660),
        ("deduce", "nobody", "nogroup", NOBODY, NEUTRON, 0o666),
        ("user", "nobody", "nogroup", NOBODY, NEUTRON, 0o600),
        ("group", "", "", NEUTRON, NEUTRON, 0o660),
        ("all", "", "", NEUTRON, NEUTRON, 0o666),
    ],
)
def test_the_mode_of_the_socket(setting, user, group, proxy, agent, mode):
    """Spec 5.1, metadata_proxy_socket_mode: connecting needs the permission to write."""
    assert mode_of(setting, user, group, proxy, agent) == mode


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_mode_and_backlog_are_those_of_the_options(nova, tmp_path, umask):
    """Spec 1.9, K12: whatever the umask. The kernel tells the backlog of a listening socket."""
    command = agent_files(
        tmp_path,
        nova,
        metadata_proxy_socket=tmp_path / "new" / "metadata_proxy",
        metadata_proxy_socket_mode="group",
        metadata_backlog=17,
    )
    before = os.umask(umask)
    try:
        with running(command, LISTENING):
            path = tmp_path / "new" / "metadata_proxy"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
            said = subprocess.run(["ss", "-xlH"], capture_output=True, text=True, check=True).stdout
            (line,) = [line for line in said.splitlines() if str(path) in line]
            assert line.split()[3] == "17"
    finally:
        os.umask(before)


def test_nobody_else_can_connect_before_it_has_its_mode(tmp_path, monkeypatch):
    """Owner and mode first, then listen: at each step before the end the file is its owner's alone."""
    path = tmp_path / "socket"
    modes = []
    chmod = Path.chmod

    def watched(self, mode):
        modes.append(stat.S_IMODE(self.stat().st_mode))
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(str(self))
        chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", watched)
    listening = AgentSocket(str(path), 0o666, own_identity(), 8)
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    listening.remove()
    listening.sock.close()
    assert not path.exists()


def test_a_socket_that_is_there_is_replaced_another_file_is_not(nova, tmp_path):
    path = tmp_path / "metadata_proxy"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    with running(agent_files(tmp_path, nova), LISTENING) as agent:
        assert ask(path).status == 200
        agent.signal(TERM)
        agent.status()
    assert not path.exists()
    path.write_text("precious")
    assert "is not a socket" in refusal(agent_files(tmp_path, nova))
    assert path.read_text() == "precious"


def test_a_bad_configuration_leaves_the_socket_of_a_running_agent_alone(nova, tmp_path):
    command = agent_files(tmp_path, nova)
    with running(command, LISTENING):
        agent_files(tmp_path, nova, nova_metadata_port="x")
        refusal(command)
        assert ask(tmp_path / "metadata_proxy").status == 200


def test_the_socket_of_a_successor_is_left_alone(nova, tmp_path):
    """Two that overlap, as at an upgrade: the older removes nothing of the younger."""
    command = agent_files(tmp_path, nova)
    with running(command, LISTENING) as older, running(command, LISTENING):
        older.signal(TERM)
        older.status()
        assert ask(tmp_path / "metadata_proxy").status == 200


# --- workers, users, the end ------------------------------------------------------------


@pytest.mark.parametrize(("workers", "processes"), [(0, 1), (1, 1), (3, 3)])
def test_workers(nova, tmp_path, workers, processes):
    """metadata_workers; 0 is one process that serves many at once, not one at a time (K13)."""
    with running(agent_files(tmp_path, nova, metadata_workers=workers), LISTENING) as agent:
        agent.wait_for("Booting worker", processes)
        assert ask(tmp_path / "metadata_proxy").status == 200
        assert len(children(agent.process.pid)) == processes


def test_64_at_once_per_worker(peers, tmp_path):
    """Spec 1.9: while 64 wait for Nova, another is answered."""
    told, inside = threading.Event(), threading.Semaphore(0)

    def slow(conversation):
        received = conversation.request()
        if received.target == "/slow":
            inside.release()
            conversation.wait_for(told)
        conversation.send(response("200 OK", b"fine", "Content-Type: text/plain"))

    nova = peers.unix(slow)
    replies = []
    with running(agent_files(tmp_path, nova, metadata_workers=0), LISTENING):
        path = tmp_path / "metadata_proxy"
        waiting = [
            threading.Thread(target=lambda: replies.append(ask(path, "/slow").status)) for _ in range(64)
        ]
        for thread in waiting:
            thread.start()
        for _ in waiting:
            assert inside.acquire(timeout=PATIENCE)
        assert ask(path, "/quick").status == 200
        told.set()
        for thread in waiting:
            thread.join(PATIENCE)
    assert replies == [200] * 64


@needs_root
def test_p_11_it_becomes_another_user(nova, open_path):
    """P-11: group list, gid and uid are gone in every process; the socket is the proxies'."""
    nobody = pwd.getpwnam("nobody")
    os.chmod(nova.address.path, 0o666)
    scratch = Path(nova.address.path).parent
    os.chmod(scratch, 0o1777)  # as /tmp
    command = agent_files(open_path, nova, metadata_proxy_user="daemon", metadata_proxy_socket_mode="group")
    with running([*command, "--user", "nobody"], LISTENING, TMPDIR=str(scratch)) as agent:
        agent.wait_for("Booting worker", 2)
        assert ask(open_path / "metadata_proxy").status == 200
        for pid in (agent.process.pid, *children(agent.process.pid)):
            assert facts(pid) == {
                "Uid": [str(nobody.pw_uid)] * 4,
                "Gid": [str(nobody.pw_gid)] * 4,
                "Groups": [],
            }
        owner = (open_path / "metadata_proxy").stat()
        assert owner.st_uid == pwd.getpwnam("daemon").pw_uid
        assert owner.st_gid == pwd.getpwnam("daemon").pw_gid
        (directory,) = group_directories(scratch)
        assert directory.owner() == "nobody"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        agent.signal(TERM)
        assert agent.status() == 0
        assert not directory.exists()


def group_directories(scratch):
    """Directories that agents made in /run or, where they cannot, in TMPDIR."""
    return [path for parent in (Path("/run"), scratch) for path in parent.glob("mdmw-agent-*")]


def test_users_and_groups_by_name_or_number():
    nobody = pwd.getpwnam("nobody")
    assert identity_of("", "") == own_identity()
    assert (
        identity_of("nobody", "")
        == Identity(nobody.pw_uid, nobody.pw_gid)
        == identity_of(str(nobody.pw_uid), "")
    )
    assert identity_of("nobody", "0") == Identity(nobody.pw_uid, 0) == identity_of("nobody", "root")
    assert identity_of("54321", "12345") == Identity(54321, 12345)
    assert identity_of("", "12345") == Identity(os.geteuid(), 12345)


def test_only_root_can_become_another(nova, tmp_path):
    """Said in one line by a process that is not root."""
    if os.geteuid() != 0:
        line = refusal([*agent_files(tmp_path, nova), "--user", "root"])
    else:
        code = (
            "import os; from mdmw.identity import *; from mdmw.errors import ConfigError;"
            "become(identity_of('nobody', ''))\n"
            "try: become(Identity(0, 0))\nexcept ConfigError as error: print(error)"
        )
        line = subprocess.run(
            [*program("python3").split(), "-c", code], capture_output=True, text=True, check=True
        ).stdout
    assert "only root can become user 0" in line


def test_sigterm_answers_what_is_under_way(peers, tmp_path):
    asked, told = threading.Event(), threading.Event()

    def slow(conversation):
        while conversation.request():
            asked.set()
            conversation.wait_for(told)
            conversation.send(response("200 OK", b"late", "Content-Type: text/plain"))

    nova = peers.unix(slow)
    scratch = Path(nova.address.path).parent
    with running(agent_files(tmp_path, nova), LISTENING, TMPDIR=str(scratch)) as agent:
        before = set(group_directories(scratch))
        late = []
        waiting = threading.Thread(target=lambda: late.append(ask(tmp_path / "metadata_proxy").body))
        waiting.start()
        assert asked.wait(PATIENCE)
        agent.signal(TERM)
        agent.wait_for("Handling signal: term")
        told.set()
        waiting.join(PATIENCE)
        assert late == [b"late"]
        assert agent.status() == 0
    assert not (tmp_path / "metadata_proxy").exists()
    assert len(before - set(group_directories(scratch))) == 1


def test_it_ends_at_once_though_its_workers_are_just_starting(nova, tmp_path):
    """A worker without handlers yet must not miss the signal; the grace is 35 s."""
    with running(agent_files(tmp_path, nova, metadata_workers=4), LISTENING) as agent:
        agent.signal(TERM)
        assert agent.status() == 0


def test_a_worker_that_dies_is_replaced(nova, tmp_path):
    with running(agent_files(tmp_path, nova, metadata_workers=1), LISTENING) as agent:
        agent.wait_for("Booting worker")
        assert ask(tmp_path / "metadata_proxy").status == 200
        (worker,) = children(agent.process.pid)
        os.kill(worker, signal.SIGKILL)
        agent.wait_for("Booting worker", 2)
        assert ask(tmp_path / "metadata_proxy").status == 200


def test_one_worker_reports_the_state(nova, tmp_path):
    """With a transport_url; that nobody answers there is said once, and stops no guest."""
    url = "rabbit://openstack:hunter2@127.0.0.1:1/"
    with running(agent_files(tmp_path, nova, transport_url=url), LISTENING) as agent:
        agent.wait_for("Neutron gets no state report for now")
        assert ask(tmp_path / "metadata_proxy").status == 200
        agent.signal(TERM)
        assert agent.status() == 0
    assert agent.count("Neutron gets no state report") == 1
    assert agent.count("hunter2") == 0


def test_an_own_pipeline(nova, tmp_path):
    """MDMW_PASTE_INI: what is in its sections wins over Neutron's files."""
    ini = tmp_path / "own.ini"
    packaged = (INVENTORY.parent / "metadata-agent.ini").read_text()
    ini.write_text(packaged + f"nova_metadata_host = {nova.address}\n")
    command = agent_files(tmp_path, nova, nova_metadata_host="unix:/nowhere")
    with running(command, LISTENING, MDMW_PASTE_INI=str(ini)):
        assert ask(tmp_path / "metadata_proxy").status == 200


def test_its_workers_can_be_asked_and_those_after_a_reload_too(nova, tmp_path):
    """With the filter introspect in a pipeline of one's own; the master is not one of those that serve."""
    ini = tmp_path / "own.ini"
    packaged = (INVENTORY.parent / "metadata-agent.ini").read_text()
    packaged = packaged.replace("run = /run/mdmw", f"run = {tmp_path}")
    ini.write_text(packaged.replace("pipeline = identify", "pipeline = introspect identify"))
    with running(agent_files(tmp_path, nova), LISTENING, MDMW_PASTE_INI=str(ini)) as agent:

        def workers():
            replies = processes.ask(tmp_path / "processes", "process")
            return {reply.pid for reply in replies if not reply.problem}

        first = wait_until(lambda: len(workers()) == 2 and workers())
        assert agent.process.pid not in first
        agent.signal(HUP)
        wait_until(lambda: len(workers()) == 2 and not workers() & first)


def wait_until(holds):
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)  # nobody tells
    return found


def wait_until_there(path):
    """For a daemon that says nothing on standard error."""
    with socket.socket(socket.AF_UNIX) as sock:
        for _ in range(2000):
            try:
                return sock.connect(str(path))
            except OSError:
                threading.Event().wait(0.01)
    raise AssertionError(f"nobody listens at {path}")
