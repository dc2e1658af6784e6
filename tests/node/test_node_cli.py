"""`mdmw node plan` and `mdmw node apply --once`."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from kvm_host import made, obstacle

from mdmw.cli.main import main

SAMPLE = Path(__file__).parents[2] / "etc" / "inventory.yaml"
NET = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
REFUSED = "http://127.0.0.1:1"  # nobody listens there


@pytest.fixture
def mdmw(capsys, tmp_path):
    """Run the command with a state directory of its own; returns status, output and errors."""

    def call(action, *words):
        state = f"node_state_path={tmp_path / 'state'}"
        status = main(["node", action, "--set", state, *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def inventory(tmp_path):
    """The sample, with a network and a bridge that nobody else has."""
    network, bridge = str(uuid.uuid4()), f"mdmw-{uuid.uuid4().hex[:6]}"
    path = tmp_path / "inventory.yaml"
    path.write_text(SAMPLE.read_text().replace(NET, network).replace("br-blue", bridge))
    return path, network, bridge


def test_plan_says_what_stands_in_the_way(mdmw, inventory):
    path, network, bridge = inventory
    status, out, err = mdmw("plan", "--file", path)
    assert (status, err) == (1, "")
    first = out.splitlines()[2].split()
    assert first[:2] == [f"qdhcp-{network}", "yes,"]
    assert f"problem: qdhcp-{network}: this host has no bridge {bridge}; make the bridge" in out


def test_plan_as_json(mdmw, inventory):
    path, network, bridge = inventory
    status, out, _ = mdmw("plan", "--file", path, "--json", "--set", "force_metadata=true")
    found = json.loads(out)
    assert status == 1
    assert found["plan"]["dhcp"][0]["row"] == 3
    assert found["plan"]["dhcp"][0]["wire"]["bridge"] == bridge
    assert [one["namespace"] for one in found["difference"]] == [f"qdhcp-{network}"]


def test_options_of_neutrons_files(mdmw, inventory, tmp_path):
    """5.2, 5.3: their names, the old one too; a row of the table of 4.3 tells that they were read."""
    path, _, _ = inventory
    ini = tmp_path / "dhcp_agent.ini"
    for text, row in [
        ("enable_isolated_metadata_proxy = false", 4),
        ("enable_isolated_metadata = true", 6),
        ("force_metadata = true", 3),
        ("", 6),
    ]:
        ini.write_text(f"[DEFAULT]\n{text}\n")
        _, out, _ = mdmw("plan", "--file", path, "--config-file", ini, "--json")
        assert json.loads(out)["plan"]["dhcp"][0]["row"] == row


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--file", "/nowhere.yaml"], "/nowhere.yaml: there is no such file"),
        (["--set", "nonsense=1"], "unknown option 'nonsense'"),
        (["--set", "nonsense"], "NAME=VALUE is allowed"),
        (["--file", SAMPLE, "--set", "metadata_access_mark=0x10000"], "'metadata_access_mark'"),
        (["--file", SAMPLE, "--set", "metadata_access_mark=0"], "from 1 to 0xffff is allowed"),
        (["--file", SAMPLE, "--set", "metadata_port=0"], "'metadata_port'"),
        (["--file", SAMPLE, "--set", "metadata_v4_prefixlen=8"], "'metadata_v4_prefixlen'"),
        (["--file", SAMPLE, "--set", "firewall=ufw"], "'firewall'"),
        ([], "no credentials for Neutron"),
    ],
)
def test_mistakes_are_one_line(mdmw, words, said):
    status, out, err = mdmw("plan", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_neutron_that_does_not_answer_removes_nothing(mdmw):
    words = ["--set", "auth_strategy=noauth", "--set", f"endpoint_url={REFUSED}"]
    for action in (["plan"], ["apply", "--once"]):
        status, out, err = mdmw(*action, *words)
        assert (status, out) == (1, "")
        assert err.startswith("mdmw: nothing is changed: Neutron: ")
        assert err.count("\n") == 1


@pytest.mark.skipif(bool(obstacle()), reason=f"needs root and: {obstacle()}")
def test_without_pyroute2_it_is_said_what_to_install(inventory):
    """Only network nodes have it; what changes nothing does without."""
    path, network, bridge = inventory
    blocked = "import sys; sys.modules['pyroute2'] = None; from mdmw.cli.main import main; sys.exit(main())"
    with made() as host:
        path.write_text(path.read_text().replace(bridge, host.bridge()))
        words = ["--file", str(path), "--set", f"node_state_path={host.places.state}"]
        for action, said in (
            (["plan"], ""),
            (["apply", "--once"], "pyroute2 is not installed; install mdmw[node]"),
        ):
            command = [sys.executable, "-c", blocked, "node", *action, *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == ((2, f"mdmw: {said}\n") if said else (1, ""))
    assert f"qdhcp-{network}" not in os.listdir("/run/netns")


@pytest.mark.skipif(bool(obstacle()), reason=f"needs root and: {obstacle()}")
def test_apply_then_nothing_then_away(mdmw, inventory):
    """Applied, said; again, nothing; a file without networks takes all of it away."""
    path, network, bridge = inventory
    namespace = f"qdhcp-{network}"
    with made() as host:
        named = host.bridge()
        path.write_text(path.read_text().replace(bridge, named))
        status, out, err = mdmw("apply", "--once", "--file", path)
        try:
            assert (status, err) == (0, "")
            assert f"{namespace}: make the namespace" in out.splitlines()
            assert (
                mdmw("apply", "--once", "--file", path)[1]
                == "the host is as planned already: nothing was changed\n"
            )
            status, out, _ = mdmw("plan", "--file", path)
            assert (status, out.splitlines()[-1]) == (0, "the host is as planned already")
        finally:
            path.write_text("networks: []\n")
            status, out, err = mdmw("apply", "--once", "--file", path)
        assert (status, err) == (0, "")
        assert f"{namespace}: remove the namespace" in out.splitlines()
        assert namespace not in os.listdir("/run/netns")


@pytest.mark.skipif(bool(obstacle()), reason=f"needs root and: {obstacle()}")
def test_remove_takes_all_away(mdmw, inventory, tmp_path):
    """Said; again, nothing. Neutron, if it is there, need not be reachable."""
    path, network, bridge = inventory
    namespace = f"qdhcp-{network}"
    with made() as host:
        path.write_text(path.read_text().replace(bridge, host.bridge()))
        assert mdmw("apply", "--once", "--file", path)[0] == 0
        dnsmasq = Path("/proc", (tmp_path / "state" / namespace / "pid").read_text().strip())
        assert dnsmasq.exists()
        words = ["--set", "auth_strategy=noauth", "--set", f"endpoint_url={REFUSED}"]
        status, out, err = mdmw("remove", *words)
        assert (status, err) == (0, "")
        assert f"{namespace}: remove the namespace" in out.splitlines()
        assert namespace not in os.listdir("/run/netns")
        assert not (dnsmasq / "exe").exists()
        assert mdmw("remove", *words) == (0, "nothing that mdmw made is left on this host\n", "")


@pytest.mark.skipif(bool(obstacle()), reason=f"needs root and: {obstacle()}")
def test_plan_without_root_says_what_it_could_not_see(inventory):
    """As a user without privileges: the plan all the same, and one line about the rest."""
    path, network, bridge = inventory
    with made() as host:
        readable = host.directory / "inventory.yaml"
        readable.write_text(path.read_text().replace(bridge, host.bridge()))
        space = host.namespace(f"qdhcp-{network}")
        code = (
            "import os, sys; from mdmw.cli import node_commands; from mdmw.cli.main import main; "
            "os.setgid(65534); os.setuid(65534); sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", code, "node", "plan", "--file", str(readable)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"qdhcp-{network}" in done.stdout.splitlines()[2]
    assert f"problem: {space}: cannot be inspected: " in done.stdout
    assert "run mdmw-node as root" in done.stdout
