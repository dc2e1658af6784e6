"""The demo: what `make run` does, on loopback and in namespaces."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from mdmw.cli import demo
from mdmw.cli.main import main

DEMO = [sys.executable, "-m", "mdmw", "demo"]


def test_without_root_each_guest_has_a_port_on_loopback():
    """Everything but the namespaces: three servers, two hops, the signature."""
    with demo.running(in_namespaces=False) as running:
        answers = running.answers()
        assert running.namespaces == {}
    assert len(answers) == 9
    assert [answer.as_dict() for answer in answers if not answer.right] == []


def test_a_wrong_answer_is_status_1(monkeypatch, capsys):
    def questions(guest, ask):
        yield "/openstack", 200, "made up", guest.name != "green-1"

    monkeypatch.setattr(demo, "_questions", questions)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # so it does not try namespaces
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main(["demo", "--once"]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    out = capsys.readouterr().out
    assert "not root: no namespaces" in out
    assert out.count("WRONG") == 1


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft", "curl"))),
    reason="needs root, ip, nft and curl for namespaces",
)
def test_as_root_guests_live_in_namespaces_and_all_goes_away():
    """`make run ONCE=1`: the right answers, and no namespace left behind."""
    done = subprocess.run([*DEMO, "--once", "--json"], capture_output=True, timeout=60, check=True)
    assert [answer for answer in json.loads(done.stdout) if not answer["right"]] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(number):
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("Ctrl-C ends it"):
                break
        process.send_signal(number)
        assert process.wait(timeout=30) == {signal.SIGINT: 0, signal.SIGTERM: 143}[number]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
