"""The paths that are compared: which processes stand between a guest and the upstream."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import haproxies, pipelines
from bench.processes import accepts_tcp, accepts_unix, running
from bench.servers import MDMW_NODE, ONLY_SIGNED_RELAYS, SERVERS, Listener, command, node_command
from bench.topology import METADATA_ADDRESS, Topology, inside, within
from mdmw.node.control import ControlError, called
from mdmw.wsgi.pipelines import INI_VARIABLE, NAME_VARIABLE

#: A process that is started on entering, gives its id, and is ended on leaving.
Process = contextlib.AbstractContextManager[int]

DIRECT = "direct"
ONE_HOP = "one-hop limit (haproxy)"
TWO_HOPS = "two-hop limit (two haproxies)"
PROXY_AGENT = "proxy + agent"
HAPROXY_AGENT = "haproxy + agent"
COMBINED = "combined"
OBSERVED = "observed"


@dataclass(frozen=True)
class Row:
    """One line of the table: a path, and the WSGI server under it if it has one.

    `checkout` is the directory of the mdmw that runs, where that is not this one.
    """

    path: str
    server: str = ""
    checkout: Path | None = None

    def __str__(self) -> str:
        name = f"{self.path}, {self.server}" if self.server else self.path
        return f"{name} [beside]" if self.checkout else name


ROWS = (
    Row(DIRECT),
    Row(ONE_HOP),
    Row(TWO_HOPS),
    *(
        Row(path, server)
        for path in (PROXY_AGENT, HAPROXY_AGENT)
        for server in SERVERS
        if (path, server) != (HAPROXY_AGENT, ONLY_SIGNED_RELAYS)
    ),
    # One beside the other.
    *(Row(path, server) for server in (*SERVERS, MDMW_NODE) for path in (COMBINED, OBSERVED)),
)
#: mdmw-node takes longer: its workers wait for guests that keep their connections.
_NODE_STOPPED_WITHIN = 45.0


@dataclass(frozen=True)
class Running:
    """A path that is up: where guests reach it, and its processes, the one nearest to Nova first."""

    port: int
    pids: tuple[int, ...]


def groups(only: str = "", beside: Path | None = None) -> list[list[Row]]:
    """What is up at the same time: the two-hop limit and the rows of one server, or those without one.

    Of the rows only those with `only` in their names. At the end once more, for each server, what observes
    beside what does not: they differ by less than two starts of one of them do. With the checkout `beside`
    each row with a server is there twice: as it is here, and as it is there.
    """
    rows = [row for row in ROWS if only in str(row) and row.path != TWO_HOPS]
    found: dict[str, list[Row]] = {}
    for row in rows or [Row(TWO_HOPS)]:
        found.setdefault(row.server, [Row(TWO_HOPS)])
    for row in rows:
        found[row.server] += _twice(row, beside)
    pairs = [[Row(COMBINED, server), Row(OBSERVED, server)] for server in found]
    repeated = [pair for pair in pairs if set(pair) <= set(rows)]
    return [*found.values(), *([each for row in pair for each in _twice(row, beside)] for pair in repeated)]


def _twice(row: Row, beside: Path | None) -> list[Row]:
    return [row, replace(row, checkout=beside)] if beside and row.server else [row]


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
        text = haproxies.upstream(body, namespace=self._namespaces.host)
        return self._haproxy("nova", text, self._accepts(haproxies.NOVA_PORT))

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
        if row.path == ONE_HOP:
            return [self._one_haproxy()]
        if row.path == TWO_HOPS:
            return [self._haproxy_agent(), self._haproxy_proxy()]
        if row.path == HAPROXY_AGENT:
            return [self._agent(row), self._haproxy_proxy()]
        if row.path == PROXY_AGENT:
            return [self._agent(row), self._outer("proxy", row)]
        pipeline = "combined" if row.path == COMBINED else "observed"
        return [self._node(pipeline, row) if row.server == MDMW_NODE else self._outer(pipeline, row)]

    def _one_haproxy(self) -> Process:
        text = haproxies.one_hop(self._namespaces.node, self._port)
        return self._haproxy("one-hop", text, self._accepts(self._port), self._namespaces.host)

    def _haproxy_proxy(self) -> Process:
        text = haproxies.namespace_proxy(self._socket, pipelines.NETWORK_ID, self._port)
        return self._haproxy("proxy", text, self._accepts(self._port))

    def _haproxy_agent(self) -> Process:
        return self._haproxy("agent", haproxies.agent(self._socket), lambda: accepts_unix(self._socket))

    def _agent(self, row: Row) -> Process:
        return self._server("agent", row, Listener(self._socket), lambda: accepts_unix(self._socket))

    def _outer(self, pipeline: str, row: Row) -> Process:
        listener = Listener(address=METADATA_ADDRESS, port=self._port)
        return self._server(pipeline, row, listener, self._accepts(self._port))

    def _server(self, pipeline: str, row: Row, listener: Listener, accepts: Callable[[], bool]) -> Process:
        ini = pipelines.write(self._directory, self._socket, self._namespaces.guest_addresses)
        words = within(self._namespaces.node, command(row.server, pipeline, listener, row.checkout))
        return running(words, accepts, self._log, {INI_VARIABLE: str(ini), NAME_VARIABLE: pipeline})

    def _node(self, pipeline: str, row: Row) -> Process:
        """mdmw-node on the host, told to listen in the namespace of the guests' network."""
        addresses = self._namespaces.guest_addresses
        ini = pipelines.write(self._directory, self._socket, addresses, on_node=True)
        access_log = self._directory / "access.log"
        access_log.touch()
        access_log.chmod(0o666)  # its workers are not root
        bind = [METADATA_ADDRESS, self._port, None]
        listeners = [[self._namespaces.node, bind, ["network", pipelines.NETWORK_ID]]]

        def listens() -> bool:
            with contextlib.suppress(ControlError), called(self._directory / "node.sock") as node:
                node.tell("want", listeners=listeners, more=False)
                return True
            return False

        words = node_command(pipeline, ini, self._directory, row.checkout)
        return running(
            within(self._namespaces.host, words), listens, self._log, stopped_within=_NODE_STOPPED_WITHIN
        )

    def _haproxy(self, name: str, text: str, accepts: Callable[[], bool], namespace: str = "") -> Process:
        config = self._directory / f"{name}.cfg"
        config.write_text(text)
        command = ["haproxy", "-db", "-f", str(config)]
        return running(within(namespace or self._namespaces.node, command), accepts, self._log)

    def _accepts(self, port: int) -> Callable[[], bool]:
        def connects() -> bool:
            with inside(self._namespaces.node):
                return accepts_tcp(METADATA_ADDRESS, port)

        return connects
