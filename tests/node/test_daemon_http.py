"""mdmw-node as an HTTP server: what the other servers are held to (W-2, W-6 to W-12, W-15 to W-17)."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import Site, site
from servers.client import Connection
from servers.launch import Listener
from servers.namespace import Namespace, temporary
from servers.nova import Nova
from servers.pipelines import ADA, ADDRESSES, BLUE, GREEN, GREEN_PORT, METADATA_ADDRESS, PORT, write
from servers.running import Configuration, Running, connected
from servers.test_bodies import *  # noqa: F403 - the tests themselves
from servers.test_connections import *  # noqa: F403
from servers.test_identity import (  # noqa: F401
    test_r6_an_unknown_guest_is_not_found,
    test_the_listener_decides_on_the_network,
    test_w1_all_forgeries_at_once,
    test_w1_identity_headers_are_exactly_right,
    test_w1_names_in_connection_take_nothing_away,
    test_w2_a_forged_header_changes_nothing,
)
from servers.test_limits import *  # noqa: F403
from servers.test_smuggling import *  # noqa: F403
from servers.test_statuses import *  # noqa: F403
from servers.test_target import *  # noqa: F403
from servers.test_timeouts import _stopped
from servers.traits import Traits

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mdmw-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def module_nova(directory: Path) -> Iterator[Nova]:
    with Nova(directory / "nova") as nova:
        nova.path.chmod(0o666)
        yield nova


@pytest.fixture
def nova(module_nova: Nova) -> Iterator[Nova]:
    module_nova.reset()
    yield module_nova
    module_nova.reset()


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with temporary(ADDRESSES) as made:
        yield made


@pytest.fixture(scope="module")
def daemon(directory: Path, module_nova: Nova) -> Iterator[Site]:
    """With the pipeline `combined` of the servers, whose listeners nobody lists in a file here."""
    with site() as made:
        text = write(directory, module_nova.path).read_text()
        made.ini.write_text(
            text.replace("listeners_file = %(here)s/listeners.json\n", "").replace("%(here)s", str(directory))
        )
        made.started("--pipeline", "combined")
        yield made


@pytest.fixture(scope="module")
def running(daemon: Site, namespace: Namespace) -> Running:
    daemon.want(
        [namespace.name, [METADATA_ADDRESS, PORT, None], ["network", BLUE]],
        [namespace.name, [METADATA_ADDRESS, GREEN_PORT, None], ["network", GREEN]],
    )
    listeners = (
        Listener(address=METADATA_ADDRESS, port=PORT),
        Listener(address=METADATA_ADDRESS, port=GREEN_PORT),
    )
    # Its HTTP is that of gunicorn with gevent, and what is said of that server must hold here.
    configuration = Configuration("gunicorn-gevent", "tcp", "combined")
    return Running(configuration, Traits(), listeners, namespace, daemon.log_file)


def test_w9_time_outs(
    directory: Path, module_nova: Nova, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W-8, W-9: guests that say nothing, half a head, a head byte by byte, half a body."""
    monkeypatch.setenv("MDMW_HEADER_TIMEOUT", "1")
    listener = Listener(address=METADATA_ADDRESS, port=PORT + 10)

    def guest() -> Connection:
        return Connection(connected(listener, namespace, ADA.address))

    with site(module_nova.path) as made:
        made.started()
        made.want([namespace.name, [METADATA_ADDRESS, PORT + 10, None], ["network", BLUE]])
        with guest() as mute, guest() as silent, guest() as dripping, guest() as stalled:
            silent.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
            stalled.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
            began = time.monotonic()
            assert _stopped(dripping)
            assert silent.is_closed()
            assert mute.is_closed()
            assert stalled.reply().status == 408
            assert time.monotonic() - began < 5


def test_the_log_has_no_traceback(running: Running) -> None:
    """The last test of this file: whatever guests did, nothing here broke."""
    log = running.log.read_text()
    assert "Traceback" not in log
