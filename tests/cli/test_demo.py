"""The demo: what `make run` does, on loopback and in namespaces."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from peers import PATIENCE

from mdmw.cli import demo
from mdmw.cli.main import main
from mdmw.errors import ConfigError
from mdmw.observe.processes import ask

DEMO = [sys.executable, "-m", "mdmw", "demo"]
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft", "curl"))),
    reason="needs root, ip, nft and curl for namespaces",
)


def processes_of(home):
    """The command lines in which the folder of a demo is named."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text())
        except OSError:  # it has ended
            continue
    return [line for line in found if str(home) in line]


def none_is_left(home):
    """What mdmw-node has told to end is no child of the demo; it may take a moment."""
    deadline = time.monotonic() + PATIENCE
    while left := processes_of(home):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    return not home.exists()


def namespaces_of(demos):
    return [name for name in os.listdir("/run/netns") if name in demos.values()]


def shown_to_operators(running):
    """Pipelines that are counted in /metrics, and the networks and routers that `mdmw top` shows."""
    url, command = (hint.split("  ", 1)[1] for hint in running.serve_operators())
    with requests.get(f"{url}metrics", timeout=PATIENCE) as reply:
        counted = re.findall(r'mdmw_requests_total{pipeline="(\w+)",status="2xx"} [1-9]', reply.text)
    with requests.get(url, timeout=PATIENCE) as page:
        assert page.headers["Content-Type"].startswith("text/html")
    words = [*shlex.split(command), "--once", "--json"]
    done = subprocess.run(words, capture_output=True, timeout=60, check=True)
    top = json.loads(done.stdout)
    assert top["silent"] == []
    assert {one["pipeline"] for one in top["networks"]} == {"proxy"}
    return set(counted), {one["id"] for one in (*top["networks"], *top["routers"])}


def test_without_root_each_guest_has_a_port_on_loopback():
    """Everything but the namespaces: three servers, two hops, the signature, and what operators see."""
    with demo.running(in_namespaces=False) as running:
        answers = running.answers()
        assert running.namespaces == {}
        networks = {guest.ports[0].network_id for guest in running.inventory.instances}
        assert shown_to_operators(running) == ({"proxy", "agent", "nova"}, networks)
    assert len(answers) == 9
    assert [answer.as_dict() for answer in answers if not answer.right] == []


def test_a_wrong_answer_is_status_1(monkeypatch, capsys):
    def questions(guest, ask):
        yield "/openstack", 200, "made up", guest.name != "green-1"

    monkeypatch.setattr(demo, "_questions", questions)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # so it does not try namespaces
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        assert main(["demo", "--once"]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    out = capsys.readouterr().out
    assert "not root: the demo runs without namespaces" in out
    assert out.count("WRONG") == 1


@needs_namespaces
def test_as_root_one_mdmw_node_serves_the_namespaces_of_all_guests():
    """Right answers of processes that are not root, all of them seen by operators; then nothing is left."""
    with demo.running(in_namespaces=True) as running:
        assert [answer.as_dict() for answer in running.answers() if not answer.right] == []
        assert len(namespaces_of(running.namespaces)) == 3
        ours = processes_of(running.home)
        assert [line.count("mdmw-node") for line in ours].count(1) == 1, ours
        assert not any("serve\0proxy" in line for line in ours)
        asked = ask(running.home / "run" / "processes", "process")
        assert {reply.pipeline for reply in asked if not reply.problem} == {"nova", "agent", "proxy"}
        counted, places = shown_to_operators(running)
        assert counted == {"proxy", "agent", "nova"}
        *networks, _ = [guest.ports[0].network_id for guest in running.inventory.instances]
        assert places == {*networks, running.inventory.routers[0].id}
        run = running.home / "run"
        assert {path.owner() for path in (run, *run.rglob("*"))} == {"nobody"}
    assert namespaces_of(running.namespaces) == []
    assert none_is_left(running.home)


@needs_namespaces
def test_once_ends_with_0():
    """`make run ONCE=1`."""
    done = subprocess.run([*DEMO, "--once", "--json"], capture_output=True, timeout=60, check=True)
    assert [answer for answer in json.loads(done.stdout) if not answer["right"]] == []


@needs_namespaces
def test_a_daemon_that_does_not_start_is_one_line(monkeypatch, tmp_path):
    """And what was there already is taken away."""
    configure = demo._configure

    def misconfigure(home, *given):
        inventory = configure(home, *given)
        ini = home / "api-paste.ini"
        ini.write_text(ini.read_text().replace("mode = listener", "mode = nonsense"))
        return inventory

    monkeypatch.setattr(demo, "_RUN", str(tmp_path))
    monkeypatch.setattr(demo, "_configure", misconfigure)
    before = set(os.listdir("/run/netns"))
    with pytest.raises(ConfigError) as refused, demo.running(in_namespaces=True):
        pass
    assert str(refused.value).startswith("mdmw-node did not start: mdmw-node: ")
    assert "nonsense" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) == []
    assert none_is_left(tmp_path / "mdmw-")
    assert not [name for name in os.listdir("/run/netns") if name not in before and "-guest-" in name]


def test_without_the_library_of_the_daemon_there_is_loopback(monkeypatch):
    monkeypatch.setitem(sys.modules, "gevent", None)
    assert demo._obstacle() == "gevent is not installed (mdmw[node])"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(number):
    """Then none of its processes, nor its folder, is left."""
    home = None
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if "edit " in line:
                home = Path(line.split("edit ")[1].strip()).parent
            if line.startswith("Ctrl-C ends it"):
                break
        process.send_signal(number)
        assert process.wait(timeout=30) == {signal.SIGINT: 0, signal.SIGTERM: 143}[number]
        assert home
        assert none_is_left(home)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
