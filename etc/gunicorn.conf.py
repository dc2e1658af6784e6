"""gunicorn for every mdmw pipeline: `gunicorn --config etc/gunicorn.conf.py`, also with `-k gevent`.

Environment: MDMW_PASTE_INI (the pipelines), MDMW_PIPELINE (agent, proxy, combined ...), MDMW_BIND,
MDMW_WORKERS, MDMW_THREADS, MDMW_UMASK, MDMW_HEADER_TIMEOUT. The command line wins over all of it.
"""

import os
import signal
import socket
import struct
import subprocess
import sys

_header_timeout = int(os.environ.get("MDMW_HEADER_TIMEOUT", "30"))

_pipeline = os.environ.get("MDMW_PIPELINE", "agent")
wsgi_app = f"mdmw.wsgi.{_pipeline}:application"
bind = os.environ.get("MDMW_BIND", "unix:/run/mdmw/metadata_proxy")
umask = int(os.environ.get("MDMW_UMASK", "007"), 8)  # of the process, and so the mode of a unix socket
backlog = 4096  # net.core.somaxconn caps it

# A request mostly waits for Nova, so what counts is how many may wait: 2 x 200 would be the guests of
# a full host that boot together, but even on two cores they wait for each other's interpreter lock.
# gevent has no use for threads and takes worker_connections each.
workers = int(os.environ.get("MDMW_WORKERS", "4"))
worker_class = "gthread"
threads = int(os.environ.get("MDMW_THREADS", "200"))
worker_connections = 1000
graceful_timeout = 35  # longer than agent_total_timeout: requests under way are answered

# Seconds between two requests. gevent also gives a request's headers no longer than this.
keepalive = _header_timeout

# W-9. The request line cannot be above 8190 here, save without any bound; gunicorn then says 414.
# Headers: mdmw says 431 above 32 KiB of them all; gunicorn above 32 KiB in one, or 64 of them.
limit_request_line = 8190
limit_request_field_size = 32768
limit_request_fields = 64

# Who asks is decided in mdmw alone. gunicorn trusts whatever comes over a unix socket.
forwarded_allow_ips = ""
secure_scheme_headers = {}
forwarder_headers = ""

control_socket_disable = True  # it would be in the home directory, the same for all instances
errorlog = "-"
accesslog = None


_STOPS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def on_starting(arbiter):
    """Mend how gunicorn starts workers and reloads, for as long as it runs."""
    hold_stops(arbiter)
    _check_before_reload(arbiter)


def hold_stops(arbiter):
    """Keep back what a worker would not hear: it would stay for graceful_timeout."""
    spawn = arbiter.spawn_worker

    def spawn_worker():
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            return spawn()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    arbiter.spawn_worker = spawn_worker


def _check_before_reload(arbiter):
    """Have SIGHUP look at the pipeline first: workers that cannot load it would end the server."""
    reload = arbiter.handle_hup

    def handle_hup():
        check = [sys.executable, "-m", "mdmw", "check", _pipeline]
        checked = subprocess.run(check, capture_output=True, text=True, check=False)  # noqa: S603 - no shell, a command of ours
        if checked.returncode:
            arbiter.log.error("SIGHUP: the old configuration stays in service: %s", checked.stderr.strip())
        else:
            reload()

    arbiter.handle_hup = handle_hup


def post_worker_init(worker):
    """Hear what was kept back; and have the kernel end the wait for a silent guest: gthread waits forever."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    for listener in worker.sockets:
        if listener.family != socket.AF_UNIX:  # accepted TCP sockets inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _header_timeout, 0))
