"""The services, in the order in which they need each other; each a context or a step that ends."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import amqp

from bench.processes import NotReady, accepts_tcp, accepts_unix, running
from bench.topology import inside, within

from . import settings
from .seed import Seed
from .settings import Secrets
from .state import State

_READY_WITHIN = 120.0
# What they know is in the databases, and neutron-rpc-server would take 20 s.
_STOPPED_WITHIN = 1.0
_MARIADB_STOPPED_WITHIN = 60.0
_RABBIT_PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # Debian's /usr/sbin one insists on its own HOME
_QUEUES = ("q-plugin", "q-reports-plugin")
_NOVA_SEED = Path(__file__).with_name("nova_seed.py")
_DATABASES = ("keystone", "neutron", "nova", "nova_api", "nova_cell0")


class Services:
    """The services of one node: where they run, what they read, what they know."""

    def __init__(self, state: State, node: str, secret: Secrets) -> None:
        self._state = state
        self._node = node
        self._secret = secret

    # --- what the services need -----------------------------------------------------------

    @contextlib.contextmanager
    def mariadb(self) -> Iterator[None]:
        """MariaDB on the data directory of this run, which is made if it is not there; no port, no users."""
        data = self._state.run / "mysql"
        # Its user may not come into the directories of whoever started this; the socket is in a private one.
        common = ["--no-defaults", "--user=root", f"--datadir={data}", "--innodb-log-file-size=16M"]
        if not data.exists():
            self.do("mariadb-install-db", ["mariadb-install-db", *common, "--skip-test-db"])
        server = [
            *("mariadbd", *common, f"--socket={self._socket}", f"--pid-file={data}/pid"),
            *("--skip-networking", "--skip-grant-tables", "--max-connections=500"),
            *("--innodb-flush-log-at-trx-commit=0", "--character-set-server=utf8mb3"),
        ]
        with self.serve(
            "mariadb", server, lambda: accepts_unix(self._socket), stopped_within=_MARIADB_STOPPED_WITHIN
        ):
            self.sql("".join(f"create database if not exists {name};" for name in _DATABASES))
            yield

    @contextlib.contextmanager
    def rabbitmq(self) -> Iterator[None]:
        """RabbitMQ with nothing in it but the users and hosts of its definitions."""
        home = self._state.run / "rabbit"
        home.mkdir()
        env = {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "cloud@localhost",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._state.etc("rabbit") / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        }
        # Started here, so that it ends here: Erlang would leave its own running.
        epmd = self.serve("epmd", ["epmd", "-address", "127.0.0.1"], lambda: self.accepts(4369), env)
        with epmd, self.serve("rabbitmq", [_RABBIT_PROGRAM], self._rabbit_accepts, env):
            yield

    # --- the services --------------------------------------------------------------------

    def fill_keystone(self) -> None:
        """Its tables, its administrator and its own place in the catalogue."""
        self._manage("keystone", "db_sync")
        env = {"OS_BOOTSTRAP_PASSWORD": self._secret.admin}
        urls = [f"--bootstrap-{kind}-url={settings.AUTH_URL}" for kind in ("public", "internal", "admin")]
        self._manage("keystone", "bootstrap", f"--bootstrap-region-id={settings.REGION}", *urls, env=env)

    def fill_neutron(self) -> None:
        """Its tables."""
        program = self._program("neutron", "neutron-db-manage")
        self.do("neutron-db-manage", [program, *self.neutron_files(), "upgrade", "heads"])

    def fill_nova(self) -> None:
        """Its tables, and the cells."""
        self._manage("nova", "api_db", "sync")
        # Templates, filled from nova.conf: the next run has its socket elsewhere.
        database = "--database_connection={scheme}://{username}@{hostname}/{path}"
        transport = "--transport-url={scheme}://{username}:{password}@{hostname}:{port}/{path}"
        self._manage("nova", "cell_v2", "map_cell0", f"{database}_cell0?{{query}}")
        self._manage("nova", "db", "sync")
        self._manage("nova", "cell_v2", "create_cell", "--name=cell1", f"{database}?{{query}}", transport)

    def fill_instances(self, seed: Seed) -> None:
        """The instances; their ports are there already."""
        command = [self._program("nova", "python"), _NOVA_SEED]
        self.do("nova-seed", command, self._nova_environ, seed.for_nova())

    def keystone(self) -> contextlib.AbstractContextManager[int]:
        """Keystone's API."""
        env = {"OS_KEYSTONE_CONFIG_DIR": str(self._state.etc("keystone"))}
        return self._wsgi("keystone", "keystone", "keystone.wsgi.api", settings.KEYSTONE_PORT, env)

    def neutron_api(self) -> contextlib.AbstractContextManager[int]:
        """Neutron's API."""
        env = {
            "OS_NEUTRON_CONFIG_DIR": str(self._state.etc("neutron")),
            "OS_NEUTRON_CONFIG_FILES": "neutron.conf;ml2_conf.ini",
        }
        return self._wsgi("neutron-api", "neutron", "neutron.wsgi.api", settings.NEUTRON_PORT, env)

    def neutron_rpc(self) -> contextlib.AbstractContextManager[int]:
        """Neutron's RPC server; it is there when it consumes the queues that a metadata agent calls."""
        command = [self._program("neutron", "neutron-rpc-server"), *self.neutron_files()]
        return self.serve("neutron-rpc", command, self._rpc_consumes)

    def nova(self) -> contextlib.AbstractContextManager[int]:
        """Nova's metadata API, in one process: what is cached is cached once."""
        return self._wsgi(
            "nova", "nova", "nova.wsgi.metadata", settings.NOVA_PORT, self._nova_environ, threads=16
        )

    # --- for all ------------------------------------------------------------------------

    @contextlib.contextmanager
    def serve(
        self,
        name: str,
        command: Sequence[str | Path],
        ready: Callable[[], bool],
        env: dict[str, str] | None = None,
        *,
        namespace: str | None = None,
        directory: Path | None = None,
        stopped_within: float = _STOPPED_WITHIN,
    ) -> Iterator[int]:
        """A process in the node's namespace, or another, until the context is left; it is up when `ready`."""
        log = self._state.log(name)
        log.write_bytes(b"")
        words = within(namespace or self._node, [str(word) for word in command])
        times = {"ready_within": _READY_WITHIN, "stopped_within": stopped_within}
        process = running(words, ready, log, self._environ(env), directory=directory, **times)
        with contextlib.ExitStack() as stack:
            try:
                pid = stack.enter_context(process)
            except NotReady as problem:
                raise NotReady(f"{name}: {problem}\n{_end_of(log)}") from problem
            yield pid

    def do(
        self, name: str, command: Sequence[str | Path], env: dict[str, str] | None = None, text: str = ""
    ) -> None:
        """A command in the node's namespace, to its end; raises `NotReady` with what it said."""
        log = self._state.log(name)
        with log.open("wb") as output:
            done = subprocess.run(
                within(self._node, [str(word) for word in command]),
                env=os.environ | self._environ(env),
                input=text,
                text=True,
                stdout=output,
                stderr=output,
                check=False,
            )
        if done.returncode:
            raise NotReady(f"{name} ended with {done.returncode}:\n{_end_of(log)}")

    def sql(self, statements: str, database: str = "mysql") -> str:
        """What MariaDB answers, one row a line."""
        command = ["mariadb", "--no-defaults", f"--socket={self._socket}", "--batch", "--skip-column-names"]
        return subprocess.run(
            [*command, database], input=statements, text=True, stdout=subprocess.PIPE, check=True
        ).stdout

    @contextlib.contextmanager
    def broker(self) -> Iterator[amqp.Connection]:
        """A connection to Neutron's part of RabbitMQ; raises OSError and `amqp.AMQPError`."""
        connection = amqp.Connection(
            f"127.0.0.1:{settings.RABBIT_PORT}",
            settings.RABBIT_USER,
            self._secret.rabbit,
            virtual_host="neutron",
        )
        with inside(self._node):
            connection.connect()
        with connection:
            yield connection

    def accepts(self, port: int, address: str = "127.0.0.1") -> bool:
        """Whether somebody listens in the node's namespace."""
        with inside(self._node):
            return accepts_tcp(address, port)

    def neutron_files(self) -> list[str]:
        """The words by which Neutron's programs find their configuration."""
        directory = self._state.etc("neutron")
        return [f"--config-file={directory / name}" for name in ("neutron.conf", "ml2_conf.ini")]

    @property
    def _nova_environ(self) -> dict[str, str]:
        return {"OS_NOVA_CONFIG_DIR": str(self._state.etc("nova"))}

    @property
    def _socket(self) -> Path:
        return self._state.run / "mysql.sock"

    def _environ(self, env: dict[str, str] | None) -> dict[str, str]:
        return {"PYTHONWARNINGS": "ignore", **(env or {})}

    def _program(self, project: str, name: str) -> Path:
        return self._state.virtualenv(project) / "bin" / name

    def _manage(self, project: str, *words: str, env: dict[str, str] | None = None) -> None:
        file = self._state.etc(project) / f"{project}.conf"
        command = [self._program(project, f"{project}-manage"), "--config-file", file, *words]
        self.do(f"{project}-{words[0]}", command, env)

    def _wsgi(
        self, name: str, project: str, module: str, port: int, env: dict[str, str], threads: int = 8
    ) -> contextlib.AbstractContextManager[int]:
        settings.write_gunicorn(self._state, name, f"{module}:application", port, threads)
        command = [self._program(project, "gunicorn")]
        directory = self._state.etc(name)
        return self.serve(name, command, lambda: self.accepts(port), env, directory=directory)

    def _rabbit_accepts(self) -> bool:
        try:
            with self.broker():
                return True
        except (OSError, amqp.AMQPError):
            return False

    def _rpc_consumes(self) -> bool:
        try:
            with self.broker() as connection:
                channel = connection.channel()
                return all(channel.queue_declare(queue, passive=True).consumer_count for queue in _QUEUES)
        except (OSError, amqp.AMQPError):
            return False  # a queue that does not exist yet closes the channel


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
