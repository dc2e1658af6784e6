"""The paths that are compared: which processes stand between a guest and the upstream."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import haproxies, pipelines
from bench.processes import accepts_tcp, accepts_unix, running
from bench.servers import ONLY_SIGNED_RELAYS, SERVERS, Listener, command
from bench.topology import METADATA_ADDRESS, Topology, inside, within
from mdmw.wsgi.pipelines import INI_VARIABLE, NAME_VARIABLE

#: A process that is started on entering, gives its id, and is ended on leaving.
Process = contextlib.AbstractContextManager[int]

C_LIMIT = "C limit"
DIRECT = "direct"
PROXY_AGENT = "proxy + agent"
HAPROXY_AGENT = "haproxy + agent"
COMBINED = "combined"
OBSERVED = "observed"


@dataclass(frozen=True)
class Row:
    """One line of the table: a path, and the WSGI server under it if it has one."""

    path: str
    server: str = ""

    def __str__(self) -> str:
        return f"{self.path}, {self.server}" if self.server else self.path


ROWS = (
    Row(DIRECT),
    Row(C_LIMIT),
    *(
        Row(path, server)
        for path in (PROXY_AGENT, HAPROXY_AGENT)
        for server in SERVERS
        if (path, server) != (HAPROXY_AGENT, ONLY_SIGNED_RELAYS)
    ),
    *(Row(path, server) for server in SERVERS for path in (COMBINED, OBSERVED)),  # one beside the other
)


@dataclass(frozen=True)
class Running:
    """A path that is up: where guests reach it, and its processes, the one nearest to Nova first."""

    port: int
    pids: tuple[int, ...]


def groups(only: str = "") -> list[list[Row]]:
    """What is up at the same time: the C limit and the rows of one server; direct is with the first.

    Of the rows only those with `only` in their names. At the end once more, for each server, what observes
    beside what does not: they differ by less than two starts of one of them do.
    """
    rows = [row for row in ROWS if only in str(row) and row.path != C_LIMIT]
    servers = list(dict.fromkeys(row.server for row in rows if row.server)) or [""]
    found = {server: [Row(C_LIMIT)] for server in servers}
    for row in rows:
        found[row.server or servers[0]].append(row)
    pairs = [[Row(COMBINED, server), Row(OBSERVED, server)] for server in servers]
    return [*found.values(), *(pair for pair in pairs if set(pair) <= set(rows))]


class Place:
    """Where one path runs on the node, beside others: it has a port and a directory of its own."""

    def __init__(self, namespaces: Topology, directory: Path, port: int = haproxies.METADATA_PORT) -> None:
        self._namespaces = namespaces
        self._directory = directory
        self._port = port
        self._socket = directory / "agent.sock"
        self._log = directory / "log"

    def upstream(self, body: Path) -> Process:
        """The stand-in for Nova, which has its own port."""
        return self._haproxy("nova", haproxies.upstream(body), self._accepts(haproxies.NOVA_PORT))

    @contextlib.contextmanager
    def path(self, row: Row) -> Iterator[Running]:
        """The processes of `row`."""
        with contextlib.ExitStack() as stack:
            pids = tuple(stack.enter_context(process) for process in self._processes(row))
            yield Running(haproxies.NOVA_PORT if row.path == DIRECT else self._port, pids)

    def log(self) -> str:
        """The end of what the processes here wrote."""
        return self._log.read_text(errors="replace")[-2000:].strip() if self._log.exists() else ""

    def _processes(self, row: Row) -> list[Process]:
        if row.path == DIRECT:
            return []
        if row.path in (COMBINED, OBSERVED):
            return [self._outer("combined" if row.path == COMBINED else "observed", row.server)]
        if row.path == C_LIMIT:
            return [self._c_agent(), self._c_proxy()]
        if row.path == HAPROXY_AGENT:
            return [self._agent(row.server), self._c_proxy()]
        return [self._agent(row.server), self._outer("proxy", row.server)]

    def _c_proxy(self) -> Process:
        text = haproxies.namespace_proxy(self._socket, pipelines.NETWORK_ID, self._port)
        return self._haproxy("proxy", text, self._accepts(self._port))

    def _c_agent(self) -> Process:
        return self._haproxy("agent", haproxies.agent(self._socket), lambda: accepts_unix(self._socket))

    def _agent(self, server: str) -> Process:
        return self._server("agent", server, Listener(self._socket), lambda: accepts_unix(self._socket))

    def _outer(self, pipeline: str, server: str) -> Process:
        listener = Listener(address=METADATA_ADDRESS, port=self._port)
        return self._server(pipeline, server, listener, self._accepts(self._port))

    def _server(self, pipeline: str, server: str, listener: Listener, accepts: Callable[[], bool]) -> Process:
        ini = pipelines.write(self._directory, self._socket, self._namespaces.guest_addresses)
        words = within(self._namespaces.node, command(server, pipeline, listener))
        return running(words, accepts, self._log, {INI_VARIABLE: str(ini), NAME_VARIABLE: pipeline})

    def _haproxy(self, name: str, text: str, accepts: Callable[[], bool]) -> Process:
        config = self._directory / f"{name}.cfg"
        config.write_text(text)
        command = within(self._namespaces.node, ["haproxy", "-db", "-f", str(config)])
        return running(command, accepts, self._log)

    def _accepts(self, port: int) -> Callable[[], bool]:
        def connects() -> bool:
            with inside(self._namespaces.node):
                return accepts_tcp(METADATA_ADDRESS, port)

        return connects
