"""mdmw doctor as a command: what it prints, with which status, and that it ends whatever the others do."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import plants
import pytest
from hypothesis import given
from hypothesis import strategies as st
from node.kvm_host import ip, obstacle
from peers import silent
from site_of_doctor import Node, doctor

from mdmw.cli.main import main
from mdmw.doctor.configuration import Question
from mdmw.doctor.examine import examine
from mdmw.doctor.findings import KINDS, Finding, causes
from mdmw.doctor.parallel import run_in_parallel
from mdmw.errors import Unavailable

needs_node = pytest.mark.skipif(bool(obstacle()), reason=f"needs root and: {obstacle()}")


def finding(kind: str, namespace: str = "") -> Finding:
    return Finding(kind, namespace or "host", "what", "how", ("mend",), namespace)


# --- causes and consequences ------------------------------------------------------------


def test_the_cause_comes_first_and_takes_its_consequences() -> None:
    found = causes([finding("listener-hung", "a"), finding("address-missing", "a"), finding("node-down")])
    assert [one.finding.kind for one in found] == ["node-down"]
    assert [one.kind for one in found[0].consequences] == ["address-missing", "listener-hung"]


def test_another_namespace_is_another_matter() -> None:
    found = causes([finding("listener-missing", "a"), finding("namespace-missing", "b")])
    assert [one.finding.kind for one in found] == ["namespace-missing", "listener-missing"]


def test_faults_come_before_warnings() -> None:
    found = causes([finding("clock"), finding("backlog-overflow", "a"), finding("wrong-secret")])
    assert [one.finding.kind for one in found] == ["wrong-secret", "backlog-overflow", "clock"]


@given(st.lists(st.builds(finding, st.sampled_from(sorted(KINDS)), st.sampled_from(["", "a", "b"]))))
def test_nothing_is_lost_and_nothing_is_told_twice(findings: list[Finding]) -> None:
    found = causes(findings)
    told = [each for one in found for each in (one.finding, *one.consequences)]
    assert len(told) == len(set(told))
    assert set(told) == set(findings)


def test_a_kind_is_explained_by_kinds_that_there_are() -> None:
    assert all(kind.explains <= KINDS.keys() for kind in KINDS.values())


# --- time -------------------------------------------------------------------------------


def test_nobody_is_waited_for_longer_than_there_is_time(peers) -> None:
    """A peer that never answers, and a task that never ends."""
    peer = peers.unix(silent)
    began = time.monotonic()

    def wait() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(peer.address.path)
            sock.recv(1)

    done = []
    problems = run_in_parallel(
        {"silent": wait, "quick": lambda: done.append(1), "wrong": _refuse}, began + 0.3
    )
    assert time.monotonic() - began < 5
    assert done == [1]
    assert problems == {"silent": "no time was left", "wrong": "it is away"}


def _refuse() -> None:
    raise Unavailable("it is away")


def test_a_defect_of_one_part_is_told_beside_what_the_others_found() -> None:
    problems = run_in_parallel({"defect": lambda: {}["x"]}, time.monotonic() + 5)
    assert problems == {"defect": "a defect of mdmw: KeyError: 'x'"}


@needs_node
def test_what_was_not_done_in_time_is_said(node: Node) -> None:
    with plants.nova_silent(node), plants.keystone_silent(node):
        report = examine(Question(run_dir=node.place.directory), within=0.4)
    assert report.seconds < 5
    assert any("no time was left" in line for line in report.left_out)


# --- what is printed --------------------------------------------------------------------


@needs_node
def test_json(node: Node, capsys) -> None:
    with plants.socket_away(node):
        found = doctor(capsys, "--run-dir", node.place.directory, "--json")
    report = json.loads(found.text)
    assert (found.status, report["status"]) == (2, "faults")
    first = report["findings"][0]
    assert (first["kind"], first["severity"], first["where"]) == ("socket-missing", "fault", str(node.socket))
    assert first["mend"][0].startswith("systemctl restart mdmw-agent")
    assert {each["kind"] for each in first["consequences"]} <= KINDS["socket-missing"].explains
    assert 0 < report["seconds"] < 10
    assert report["checked"]


@needs_node
def test_the_text_fits_into_100_columns(node: Node, capsys) -> None:
    """But for a word that is longer by itself."""
    with plants.namespace_deleted(node), plants.socket_away(node):
        capsys.readouterr()
        found = doctor(capsys, "--run-dir", node.place.directory)
    assert [line for line in found.text.splitlines() if len(line) > 100] == []


@needs_node
def test_the_command_that_mends_it_mends_it(node: Node, capsys) -> None:
    """As it is printed."""
    with plants.address_taken_away(node):
        (line,) = examine(Question(run_dir=node.place.directory), 8).causes[0].finding.mend
    ip(node.space, f"address delete 169.254.169.254/32 dev {node.device}")
    subprocess.run([sys.executable, "-m", *line.split()], check=True, capture_output=True, timeout=30)
    assert "169.254.169.254" in ip(node.space, "address")


@needs_node
def test_without_root_it_says_what_it_did_not_see(node: Node) -> None:
    """As user nobody, who may read the options: the rest of the path is looked at."""
    ini = node.place.directory / "for-nobody.ini"
    ini.write_text(node.agent_ini.read_text())
    ini.chmod(0o644)
    words = ["doctor", "--within", "8", "--config-file", str(ini)]
    script = (  # once as root, so that all of Python is loaded, which nobody may not read everywhere
        "import contextlib, io, os, sys; from mdmw.cli.main import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()): main({words!r})\n"
        f"os.setresuid(65534, 65534, 65534); sys.exit(main({words!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout.startswith("Nothing is wrong, in what was looked at."), done
    assert "only root sees them" in done.stdout
    assert "Keystone and Neutron" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network", "x"], "not a UUID"),
        (["--address", "10.0.0.300"], "10.0.0.300"),
        (["--network", "a", "--router", "b"], "not allowed with"),
        (["--within", "0"], "1 to 60 is allowed"),
    ],
)
def test_wrong_usage(words: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *words])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


# --- the page ---------------------------------------------------------------------------


def test_every_kind_has_its_row_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "doc" / "doctor.rst").read_text()
    rows = page[page.index("What the doctor finds") :]
    for kind in KINDS.values():
        row = f"    * - ``{kind.name}``\n      - {kind.severity}\n      - {kind.meaning}\n"
        assert row in rows, row
    assert rows.count("    * - ``") == len(KINDS)
