"""Every server's processes are counted right, the dead ones too."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli.daemons import LISTENING, Daemon, program
from node.daemon import site
from servers.client import Connection
from servers.launch import SERVERS, Listener
from servers.namespace import temporary
from servers.nova import Nova
from servers.pipelines import ADA, ADDRESSES, BEN, BLUE, METADATA_ADDRESS, PORT, write
from servers.running import Configuration, Running, connected, started
from servers.traits import TRAITS

from mdmw.observe.metrics import collect

WORKERS = 2
EACH = 30
_METRICS = "\n[filter:metrics]\nuse = egg:mdmw#metrics\nmetrics_dir = {directory}\n"


def configured(directory, nova):
    """The paste file, with metrics in each pipeline; and where they are."""
    ini = write(directory, nova.path)
    metrics = directory / "metrics"
    text = ini.read_text().replace("pipeline = ", "pipeline = metrics ")
    ini.write_text(text + _METRICS.format(directory=metrics))
    return ini, metrics


def sample(directory, name, **labels):
    """The value, None when there is no such sample."""
    found = [
        s.value
        for family in collect(directory)
        for s in family.samples
        if s.name == name and s.labels == labels
    ]
    return found[0] if found else None


def at_least(number, directory, name, **labels):
    """The value of a sample as soon as it is not below `number`."""
    pause = threading.Event()
    while (found := sample(directory, name, **labels) or 0) < number:
        pause.wait(0.05)  # ended by the time limit of the test
    return found


def wait_for(number, directory, pipeline):
    """Until so many requests were answered well, and no more."""
    assert at_least(number, directory, "mdmw_requests_total", pipeline=pipeline, status="2xx") == number


def wait_for_gauges(directory, pipeline):
    """Until a process has written its gauges, the last part of its file."""
    pause = threading.Event()
    while (found := sample(directory, "mdmw_processes", pipeline=pipeline)) is None:
        pause.wait(0.05)
    return found


@pytest.mark.parametrize("server", SERVERS)
def test_every_process_of_a_server_counts_and_a_restart_loses_nothing(server, tmp_path):
    with Nova(tmp_path / "nova") as nova:
        ini, metrics = configured(tmp_path, nova)
        listener = Listener(tmp_path / "socket")
        launch = SERVERS[server]("agent", [listener], WORKERS)
        log = tmp_path / "log"
        for times in (1, 2):
            with started(launch, ini, (listener,), None, log):
                running = Running(
                    Configuration(server, "unix", "agent"), TRAITS[server], (listener,), None, log
                )
                with ThreadPoolExecutor(4) as threads:
                    replies = list(threads.map(running.ask, ["/latest/"] * EACH))
                assert {reply.status for reply in replies} == {200}
                wait_for(times * EACH, metrics, "agent")
                assert 1 <= wait_for_gauges(metrics, "agent") <= WORKERS
                for stage in ("identify", "resolve", "sign", "forward"):
                    name = "mdmw_stage_duration_seconds_count"
                    assert at_least(times * EACH, metrics, name, pipeline="agent", stage=stage)
                assert sample(metrics, "mdmw_upstream_slots", upstream="nova") % 128 == 0
        assert sample(metrics, "mdmw_processes", pipeline="agent") is None
        wait_for(2 * EACH, metrics, "agent")


def test_a_worker_that_is_killed_has_counted(tmp_path):
    """Its successor goes on from there."""
    with Nova(tmp_path / "nova") as nova:
        ini, metrics = configured(tmp_path, nova)
        words = ["--bind", f"unix:{tmp_path}/socket", "--workers", 1]
        daemon = Daemon([program("mdmw"), "serve", "agent", "--ini", ini, *words])
        try:
            daemon.wait_for(LISTENING)
            running = Running(
                Configuration("gunicorn", "unix", "agent"),
                TRAITS["gunicorn"],
                (Listener(tmp_path / "socket"),),
                None,
                tmp_path / "log",
            )
            assert running.ask("/").status == 200
            wait_for(1, metrics, "agent")
            (live,) = metrics.glob("*.live")
            os.kill(int(live.name.partition("-")[0]), 9)
            daemon.wait_for("Booting worker", times=2)
            assert running.ask("/").status == 200
            wait_for(2, metrics, "agent")
        finally:
            daemon.close()


def test_mdmw_metadata_agent_counts(tmp_path):
    with Nova(tmp_path / "nova") as nova:
        ini, metrics = configured(tmp_path, nova)
        words = ("--config-file", "/dev/null", "--state-path", tmp_path)
        daemon = Daemon([program("mdmw-metadata-agent"), *words], MDMW_PASTE_INI=str(ini))
        try:
            daemon.wait_for(LISTENING)
            running = Running(
                Configuration("gunicorn", "unix", "agent"),
                TRAITS["gunicorn"],
                (Listener(tmp_path / "metadata_proxy"),),
                None,
                tmp_path / "log",
            )
            for _ in range(3):
                assert running.ask("/").status == 200
            wait_for(3, metrics, "agent")
        finally:
            daemon.close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces")
def test_workers_of_mdmw_node_count_without_privileges(open_path):
    """In the directory that the keeper made for them; what guests claim to be is counted too."""
    with Nova(open_path / "nova") as nova, temporary(ADDRESSES) as namespace, site() as made:
        nova.path.chmod(0o666)
        ini, metrics = configured(open_path, nova)
        text = ini.read_text().replace("listeners_file = %(here)s/listeners.json\n", "")
        text = text.replace("%(here)s", str(open_path)).replace(str(metrics), f"{made.directory}/metrics")
        made.ini.write_text(text)
        metrics = Path(made.directory) / "metrics"
        made.started("--pipeline", "combined")
        made.want([namespace.name, [METADATA_ADDRESS, PORT, None], ["network", BLUE]])
        for guest in (ADA, BEN):
            with Connection(
                connected(Listener(address=METADATA_ADDRESS, port=PORT), namespace, guest.address)
            ) as one:
                one.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Instance-ID: me\r\nX-Tenant_ID: me\r\n\r\n")
                assert one.reply().status == 200
        wait_for(2, metrics, "combined")
        assert sample(metrics, "mdmw_forged_headers_total", pipeline="combined") in (2, 4)
        made.started("--pipeline", "combined")  # takes over; the workers before it are gone
        wait_for(2, metrics, "combined")
        assert 0 not in {path.stat().st_uid for path in metrics.iterdir()}
