"""The whole cloud: Keystone, Neutron, Nova's metadata API, and the namespaces of guests."""

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import packages, seed, settings
from .api import Api
from .seed import Seed
from .services import Services
from .settings import Secrets
from .state import State
from .topology import Topology, namespace


@dataclass(frozen=True)
class Cloud:
    """A cloud that is up. All services are on the loopback of the namespace `node`."""

    state: State
    node: str
    secrets: Secrets
    services: Services
    api: Api
    seed: Seed
    topology: Topology

    @property
    def socket(self) -> Path:
        """Where proxies look for the metadata agent, whoever that is."""
        return self.state.run / "neutron" / "metadata_proxy"


@contextlib.contextmanager
def running() -> Iterator[Cloud]:
    """From nothing, or from what is kept; everything that was started ends with the context."""
    with contextlib.ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdmw-")))
        state = State.of_environment(run)
        stack.enter_context(_alone(state))
        tag = f"mdmw-{hashlib.sha256(bytes(state.kept)).hexdigest()[:6]}"
        secret = Secrets.read(state.filled / "secrets.json") if state.filled.exists() else Secrets()
        with ThreadPoolExecutor() as pool:
            virtualenvs = [pool.submit(packages.make_virtualenv, state, name) for name in packages.PROJECTS]
            packages.install_programs()
            node = stack.enter_context(namespace(f"{tag}-node"))
            services = Services(state, node, secret)
            settings.write(state, secret)
            start = _Start(state, services, stack)
            started = start.side_by_side(pool, *virtualenvs)
        for step in started:
            step.result()
        api = Api(node, secret.admin)
        if not state.filled.exists():
            start.fill(api, secret)
        made = Seed.read(state.filled / "seed.json")
        topology = Topology(tag, made)
        stack.enter_context(topology.made())
        yield Cloud(state, node, secret, services, api, made, topology)


class _Start:
    """The services, side by side: each step waits for those that it needs."""

    def __init__(self, state: State, services: Services, stack: contextlib.ExitStack) -> None:
        self._state = state
        self._services = services
        self._stack = stack
        self._database = stack.enter_context(contextlib.ExitStack())
        self._is_new = not state.filled.exists()

    def side_by_side(
        self, pool: ThreadPoolExecutor, keystone: Future[None], neutron: Future[None], nova: Future[None]
    ) -> list[Future[None]]:
        """Start it all; the arguments are the virtualenvs, under way."""
        services = self._services
        database = pool.submit(self._start_database)
        broker = pool.submit(self._serve, services.rabbitmq)

        def service(virtualenv: Future[None], fill: Callable[[], None], *serve: Callable[[], object]) -> None:
            for needed in (virtualenv, database):
                needed.result()
            if self._is_new:
                fill()
            broker.result()
            for context in serve:
                self._serve(context)

        return [
            pool.submit(service, keystone, services.fill_keystone, services.keystone),
            pool.submit(service, neutron, services.fill_neutron, services.neutron_api, services.neutron_rpc),
            pool.submit(service, nova, services.fill_nova, services.nova),
        ]

    def fill(self, api: Api, secret: Secrets) -> None:
        """Put users, networks and instances in, and keep the databases for the next run."""
        filling = self._state.kept / "filling"
        shutil.rmtree(filling, ignore_errors=True)
        filling.mkdir(mode=0o700)
        secret.write(filling / "secrets.json")
        made = seed.networks(api, seed.users(api, secret))
        made.write(filling / "seed.json")
        self._services.fill_instances(made)
        self._database.close()  # files at rest, to copy
        shutil.copytree(self._state.run / "mysql", filling / "mysql")
        self._start_database()
        for old in self._state.kept.glob("filled-*"):
            shutil.rmtree(old)
        filling.rename(self._state.filled)

    def _start_database(self) -> None:
        data = self._state.run / "mysql"
        if not data.exists() and not self._is_new:
            shutil.copytree(self._state.filled / "mysql", data)
        self._database.enter_context(self._services.mariadb())

    def _serve(self, context: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        self._stack.enter_context(context())


@contextlib.contextmanager
def _alone(state: State) -> Iterator[None]:
    """Namespaces have the names of what is kept, so only one may run with it."""
    with (state.kept / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"another run uses {state.kept}") from error
        yield
