"""Thirty configurations: each server, on a unix socket and on TCP, with each pipeline.

A test names `running` and is run for every configuration that serves guests; the marker
`configurations` narrows that down. Each server is started once.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .launch import SERVERS, Listener
from .namespace import Namespace, temporary
from .nova import Nova
from .pipelines import ADDRESSES, GREEN_PORT, METADATA_ADDRESS, PORT, write
from .running import Configuration, Running, started
from .traits import TRAITS

ALL = [
    Configuration(server, transport, pipeline)
    for server in SERVERS
    for transport in ("unix", "tcp")
    for pipeline in ("proxy", "agent", "combined")
]
# Guests come over TCP: on a unix socket only an agent knows who asks.
UNIDENTIFIED = [c for c in ALL if c.transport == "unix" and c.pipeline != "agent"]
SERVING = [c for c in ALL if c not in UNIDENTIFIED]
GUEST_FACING = [c for c in SERVING if c.pipeline != "agent"]
COMBINED = [c for c in SERVING if c.pipeline == "combined"]
_SETS = {
    "serving": SERVING,
    "unidentified": UNIDENTIFIED,
    "guest-facing": GUEST_FACING,
    "agents": [c for c in SERVING if c.pipeline == "agent"],
    "to-nova": [c for c in SERVING if c.pipeline != "proxy"],
    "combined": COMBINED,
}

NO_NAMESPACE = "needs root: guests have their addresses in a network namespace of the test"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"configurations(name): one of {', '.join(_SETS)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "running" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("configurations")
        chosen = _SETS[marker.args[0] if marker else "serving"]
        metafunc.parametrize("running", chosen, ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Short, because of the sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="mdmw-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def session_nova(directory: Path) -> Iterator[Nova]:
    with Nova(directory / "nova") as nova:
        yield nova


@pytest.fixture
def nova(session_nova: Nova) -> Iterator[Nova]:
    session_nova.reset()
    yield session_nova
    session_nova.reset()


@pytest.fixture(scope="session")
def ini(directory: Path, session_nova: Nova) -> Path:
    return write(directory, session_nova.path)


@pytest.fixture(scope="session")
def maybe_namespace() -> Iterator[Namespace | None]:
    if os.geteuid() != 0:
        yield None
        return
    with temporary(ADDRESSES) as namespace:
        yield namespace


@pytest.fixture(scope="session")
def namespace(maybe_namespace: Namespace | None) -> Namespace:
    if maybe_namespace is None:
        pytest.skip(NO_NAMESPACE)
    return maybe_namespace


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, directory: Path, ini: Path, maybe_namespace: Namespace | None
) -> Iterator[Running]:
    configuration: Configuration = request.param
    traits = TRAITS[configuration.server]
    if configuration.transport == "tcp" and maybe_namespace is None:
        pytest.skip(NO_NAMESPACE)
    listeners = _listeners(configuration, directory)
    log = directory / f"{configuration}.log"
    launch = SERVERS[configuration.server](configuration.pipeline, listeners)
    with started(launch, ini, listeners, maybe_namespace, log):
        yield Running(configuration, traits, listeners, maybe_namespace, log)


def _listeners(configuration: Configuration, directory: Path) -> tuple[Listener, ...]:
    if configuration.transport == "unix":
        return (Listener(directory / str(configuration)),)
    if configuration.pipeline == "agent":
        return (Listener(address="127.0.0.1", port=PORT),)
    first = Listener(address=METADATA_ADDRESS, port=PORT)
    if configuration.pipeline == "combined" and TRAITS[configuration.server].several_listeners:
        return (first, Listener(address=METADATA_ADDRESS, port=GREEN_PORT))
    return (first,)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> object:
    """Show the end of the server's log with a failure."""
    report = yield
    server = getattr(item, "funcargs", {}).get("running")
    if report.failed and isinstance(server, Running):
        lines = server.log.read_text(errors="replace").splitlines()[-40:]
        report.sections.append((f"log of {server.configuration}", "\n".join(lines)))
    return report
