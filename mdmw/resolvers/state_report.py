"""The state report, for which `openstack network agent list` shows the metadata agent as alive.

The report has the content of neutron-metadata-agent's (spec 1.9, 5.1). A thread of its own sends it, so
that a report never delays the answer to a guest. A fault of the report is a line in the log.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from oslo_config import cfg

from mdmw.errors import ConfigError, Unavailable
from mdmw.locking import try_lock, unlock
from mdmw.options import load
from mdmw.resolvers.neutron_rpc import NeutronRpc
from mdmw.resolvers.shared import GROUP_DIRECTORY
from mdmw.wire import one_line

LOG = logging.getLogger(__name__)

_PLACE = "state-report"
_TOPIC = "q-reports-plugin"
_VERSION = "1.4"
_TIMEOUT = 10.0  # seconds
_TURN = 2.0  # seconds between two tries to take over from the process that reports

_OPTIONS = [
    cfg.StrOpt("transport_url", secret=True),
    cfg.StrOpt("host"),
    cfg.StrOpt("nova_metadata_host", deprecated_name="nova_metadata_ip", default="127.0.0.1"),
    cfg.PortOpt("nova_metadata_port", default=8775),
]
_AGENT_OPTIONS = [
    cfg.FloatOpt("report_interval", default=30.0, min=0.0),
    cfg.BoolOpt("log_agent_heartbeats", default=False),
]


def start_reporting(global_conf: Mapping[str, str], metadata_proxy_socket: str) -> "Reporter | None":
    """Start to report to Neutron. Of a group of processes one reports; when it ends, another takes over.

    Call this after a fork, in every process. `global_conf` names the files, as in a paste file
    (`config_file`, `config_dir`). Returns None when nothing is to be reported: without a `transport_url`,
    with an interval of 0, or with options that cannot be used, which are logged.
    """
    try:
        settings = _settings(global_conf)
    except ConfigError as error:
        LOG.error("Neutron gets no state report: %s", error)  # noqa: TRY400 - the text of the error is enough
        return None
    if not (settings.transport_url and settings.report_interval):
        return None
    return Reporter(settings, metadata_proxy_socket)


class Reporter:
    """The thread that reports until `stop` is called."""

    def __init__(self, settings: SimpleNamespace, metadata_proxy_socket: str) -> None:
        self._settings = settings
        self._state = {
            "binary": "neutron-metadata-agent",
            "agent_type": "Metadata agent",
            "topic": "N/A",
            "host": settings.host or socket.gethostname(),
            "configurations": {
                "metadata_proxy_socket": metadata_proxy_socket,
                "nova_metadata_host": settings.nova_metadata_host,
                "nova_metadata_port": settings.nova_metadata_port,
                "log_agent_heartbeats": settings.log_agent_heartbeats,
            },
        }
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="state-report", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """End the thread; returns after at most `timeout` seconds, also while a report is being sent."""
        self._stopped.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            with _turn(self._stopped) as is_ours:
                if is_ours:
                    self._report_until_stopped()
        except (ConfigError, OSError) as error:
            LOG.error("Neutron gets no state report: %s", error)  # noqa: TRY400 - the text of the error is enough

    def _report_until_stopped(self) -> None:
        settings = self._settings
        rpc = NeutronRpc(settings.config, _PLACE, settings.transport_url)
        try:
            self._report_to(rpc)
        finally:
            rpc.close(_TIMEOUT)

    def _report_to(self, rpc: NeutronRpc) -> None:
        is_known, is_failing = False, False
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self._report(rpc, is_known)
            except Unavailable as error:
                if not is_failing:
                    LOG.warning("Neutron gets no state report for now: %s", error)
                is_failing = True
            else:
                if not is_known or is_failing:
                    LOG.info("Neutron gets state reports of the host %r", self._state["host"])
                is_known, is_failing = True, False
            self._stopped.wait(max(0.0, began + self._settings.report_interval - time.monotonic()))

    def _report(self, rpc: NeutronRpc, is_known: bool) -> None:
        """Send one report. The first report waits for Neutron's answer, as that of Neutron's agent does."""
        state: dict[str, Any] = {**self._state, "uuid": str(uuid.uuid4())}
        if not is_known:
            state["start_flag"] = True
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
        send = rpc.cast if is_known else rpc.call
        send(_TOPIC, _VERSION, _TIMEOUT, "report_state", agent_state={"agent_state": state}, time=now)


def _settings(global_conf: Mapping[str, str]) -> SimpleNamespace:
    settings = load(_PLACE, _OPTIONS, global_conf, {})
    group = settings.config.parse(settings.place, _AGENT_OPTIONS, "AGENT").AGENT
    try:
        return SimpleNamespace(**vars(settings), **{opt.dest: group[opt.dest] for opt in _AGENT_OPTIONS})
    except (cfg.Error, ValueError) as error:
        raise ConfigError(f"{_PLACE}: [AGENT]: {one_line(str(error))}") from None


@contextmanager
def _turn(stopped: threading.Event) -> Iterator[bool]:
    """Inside, no other process of the group reports; False when `stopped` came first. Raises OSError."""
    directory = os.environ.get(GROUP_DIRECTORY)
    if not directory:
        yield True
        return
    # The lock is on the directory itself: a file in it could be root's, since the parent starts as root.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while not try_lock(fd):
            if stopped.wait(_TURN):
                yield False
                return
        try:
            yield True
        finally:
            unlock(fd)
    finally:
        unlock(fd)
        os.close(fd)
