"""Reload of mdmw's own daemons, through the API."""

import os
import shutil
import time
from pathlib import Path

import pytest
from administered import Api
from cli.daemons import LISTENING, agent_files, running, verifying
from node.daemon import site
from peers import PATIENCE

from mdmw.observe import processes

PACKAGED = Path(__file__).parents[2] / "etc" / "metadata-agent.ini"
INTROSPECT = "\n[filter:introspect]\nuse = egg:mdmw#introspect\nintrospect_dir = {}\n"


def told(directory, number):
    """What the processes say of a reload, once so many of them are there."""
    deadline = time.monotonic() + PATIENCE
    while len(processes.ask(directory, "process")) < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between two looks
    return Api(introspect_dir=directory).ask("POST", "/v1/reload")[1]["processes"]


def test_the_metadata_agent(peers, tmp_path):
    """Its master reads its files again, once for both workers."""
    ini = tmp_path / "own.ini"
    text = PACKAGED.read_text().replace("run = /run/mdmw", f"run = {tmp_path}")
    ini.write_text(text.replace("pipeline = identify", "pipeline = introspect identify"))
    command = agent_files(tmp_path, peers.unix(verifying(["s3cret"])))
    with running(command, LISTENING, MDMW_PASTE_INI=str(ini)) as agent:
        answers = told(tmp_path / "processes", 2)
        assert [answer["reloads"] for answer in answers] == [True, True]
        agent.wait_for("the new configuration is in service")
        assert agent.count("SIGHUP: the new configuration") == 1


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces")
def test_the_node():
    """A worker cannot ask the keeper, which is root, and says who can."""
    with site() as made:
        directory = made.directory / "processes"
        text = made.ini.read_text().replace("pipeline = ", "pipeline = introspect ")
        made.ini.write_text(text + INTROSPECT.format(directory))
        made.started()
        answers = told(directory, 1)
        assert {answer["reloads"] for answer in answers} == {False}
        assert "systemctl reload mdmw-node" in answers[0]["text"]
