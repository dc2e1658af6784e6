"""SIGHUP: the new configuration is taken without losing a request, a bad one is not taken (S-3)."""

import collections
import shutil
import threading

import pytest
from certificates import Authority
from daemons import (
    HUP,
    INVENTORY,
    LISTENING,
    agent_files,
    ask,
    program,
    running,
    verifying,
)
from peers import PATIENCE, answers, response

REQUESTS = 5000
CLIENTS = 8
RELOADS = 4
FINE = answers(response("200 OK", b"fine", "Content-Type: text/plain"))


class Clients:
    """Threads that ask again and again, on a connection of its own each time, until `stop`."""

    def __init__(self, path):
        self._path = path
        self._stopped = threading.Event()
        self._answered = threading.Condition()
        self.done = 0
        self.failures = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self):
        while not self._stopped.is_set():
            try:
                reply = ask(self._path)
                problem = None if reply.status == 200 and reply.body == b"fine" else reply
            except OSError as error:
                problem = error
            with self._answered:
                self.done += 1
                if problem:
                    self.failures.append(problem)
                self._answered.notify_all()

    def wait_for(self, count):
        with self._answered:
            assert self._answered.wait_for(lambda: self.done >= count, 5 * PATIENCE)

    def stop(self):
        self._stopped.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture
def clients():
    """Makes clients of a socket, and stops them after the test."""
    made = []

    def make(path):
        made.append(Clients(path))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_s_3_a_rotation_loses_no_request(peers, tmp_path, clients):
    """S-3: the secret is changed again and again under load; Nova takes two; nobody notices."""
    seen = collections.Counter()
    nova = peers.unix(verifying(["old", "new"], seen))
    command = agent_files(tmp_path, nova, metadata_proxy_shared_secret="old")
    path = tmp_path / "metadata_proxy"
    with running(command, LISTENING) as agent:
        asking = clients(path)
        for number in range(1, RELOADS + 1):
            asking.wait_for(number * REQUESTS // (RELOADS + 2))
            secret = ["new", "old"][number % 2 - 1]
            agent_files(tmp_path, nova, metadata_proxy_shared_secret=secret, metadata_workers=1 + number % 3)
            agent.signal(HUP)
            agent.wait_for("the new configuration is in service", number)
        asking.wait_for(REQUESTS)
        asking.stop()
        assert asking.failures == []
        assert min(seen["old"], seen["new"]) > 0
        assert sum(seen.values()) == asking.done


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"nova_metadata_port": "none"}, "nova_metadata_port"),
        ({"metadata_proxy_shared_secret": []}, "metadata_proxy_shared_secret"),
        ({"metadata_workers": "-1"}, "metadata_workers"),
        ({"inventory_file": "/none.yaml"}, "/none.yaml"),
        (None, "metadata_agent.ini"),
    ],
    ids=["value", "secret", "own option", "file", "garbage"],
)
def test_a_bad_configuration_is_one_line_and_the_old_one_stays(peers, tmp_path, more, said):
    nova = peers.unix(verifying(["s3cret"]))
    with running(agent_files(tmp_path, nova), LISTENING) as agent:
        agent.wait_for("Booting worker", 2)
        if more is None:
            (tmp_path / "metadata_agent.ini").write_text("[DEFAULT]\nmetadata_proxy_shared_secret hunter2\n")
        else:
            agent_files(tmp_path, nova, **more)
        agent.signal(HUP)
        agent.wait_for("the old configuration stays in service")
        assert ask(tmp_path / "metadata_proxy").status == 200
        line = next(line for line in agent.lines if "stays in service" in line)
        assert said in line
        assert agent.count("Booting worker") == 2
        assert agent.count("Traceback") == agent.count("hunter2") == 0
        agent_files(tmp_path, nova)
        agent.signal(HUP)
        agent.wait_for("the new configuration is in service")
        assert ask(tmp_path / "metadata_proxy").status == 200


def test_a_certificate_is_read_again(peers, tmp_path):
    """auth_ca_cert: a file with another authority in it."""
    ca, other = (Authority(tmp_path, name) for name in ("ca", "other"))
    bundle = tmp_path / "bundle.pem"
    shutil.copy(other.file, bundle)
    nova = peers.tcp(FINE, tls=ca.server("127.0.0.1"))
    more = {"nova_metadata_protocol": "https", "auth_ca_cert": bundle, "nova_cooldown": 0}
    with running(agent_files(tmp_path, nova, **more), LISTENING) as agent:
        assert ask(tmp_path / "metadata_proxy").status == 503
        shutil.copy(ca.file, bundle)
        agent.signal(HUP)
        agent.wait_for("the new configuration is in service")
        assert ask(tmp_path / "metadata_proxy").status == 200


def test_what_cannot_change_is_said(peers, tmp_path):
    nova = peers.unix(verifying(["s3cret"]))
    with running(agent_files(tmp_path, nova), LISTENING) as agent:
        agent_files(tmp_path, nova, metadata_proxy_socket=tmp_path / "elsewhere", metadata_backlog=7)
        agent.signal(HUP)
        agent.wait_for("the new configuration is in service")
        line = "'metadata_proxy_socket' has changed; the new value takes effect at the next start"
        assert agent.count(line) == 1
        assert agent.count("'metadata_backlog' has changed") == 1
        assert ask(tmp_path / "metadata_proxy").status == 200
        assert not (tmp_path / "elsewhere").exists()


def test_a_request_under_way_is_answered(peers, tmp_path):
    """By the worker that is going away; the next one by its successor."""
    asked, told = threading.Event(), threading.Event()

    def slow(conversation):
        while conversation.request():
            asked.set()
            conversation.wait_for(told)
            conversation.send(response("200 OK", b"late", "Content-Type: text/plain"))

    nova = peers.unix(slow, FINE)
    with running(agent_files(tmp_path, nova, metadata_workers=1), LISTENING) as agent:
        late = []
        waiting = threading.Thread(target=lambda: late.append(ask(tmp_path / "metadata_proxy")))
        waiting.start()
        assert asked.wait(PATIENCE)
        agent.signal(HUP)
        agent.wait_for("Booting worker", 2)
        assert ask(tmp_path / "metadata_proxy").body == b"fine"
        told.set()
        waiting.join(PATIENCE)
        assert [reply.body for reply in late] == [b"late"]
        agent.wait_for("the new configuration is in service")


# --- the same for `mdmw serve` ----------------------------------------------------------

INI = """
[pipeline:agent]
pipeline = identify resolve sign to-nova
[filter:identify]
use = egg:mdmw#source-identify
mode = relay
[filter:resolve]
use = egg:mdmw#instance-resolve
inventory_file = {inventory}
[filter:sign]
use = egg:mdmw#hmac-sign
metadata_proxy_shared_secret = {secret}
[app:to-nova]
use = egg:mdmw#nova-forward
nova_metadata_host = {nova}
"""


@pytest.mark.parametrize("server", ["gunicorn", "gunicorn-gevent"])
def test_mdmw_serve_on_gunicorn_reloads_too(peers, tmp_path, clients, server):
    seen = collections.Counter()
    nova = peers.unix(verifying(["old", "new"], seen))
    ini, path = tmp_path / "api-paste.ini", tmp_path / "agent"

    def write(secret):
        ini.write_text(INI.format(inventory=INVENTORY, secret=secret, nova=nova.address))

    write("old")
    command = [program("mdmw"), "serve", "agent", "--ini", ini, "--bind", f"unix:{path}", "--server", server]
    with running([*command, "--workers", "1"], LISTENING) as serving:
        asking = clients(path)
        asking.wait_for(200)
        write("new")
        serving.signal(HUP)
        asking.wait_for(1000)
        while not seen["new"]:  # the new worker takes its time to load
            asking.wait_for(asking.done + 1)
        ini.write_text("[pipeline:agent]\npipeline = nothing\n")
        serving.signal(HUP)
        serving.wait_for("the old configuration stays in service")
        asking.stop()
        assert ask(path).status == 200
        assert asking.failures == []
        assert serving.count("Booting worker") == 2
