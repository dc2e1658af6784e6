"""Configuration of gunicorn for every pipeline of mdmw: `gunicorn --config etc/gunicorn.conf.py`.

The same file works with gevent workers (`-k gevent`). Environment variables:
MDMW_PASTE_INI        file with the pipelines
MDMW_PIPELINE         name of the pipeline: agent, proxy, combined ...
MDMW_BIND             listener: unix:/PATH or ADDRESS:PORT
MDMW_WORKERS          number of worker processes
MDMW_THREADS          threads of each worker
MDMW_UMASK            umask in octal; decides the mode of a unix socket
MDMW_HEADER_TIMEOUT   seconds that a guest may take for the headers of a request
An option on the command line of gunicorn wins over its environment variable.
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
umask = int(os.environ.get("MDMW_UMASK", "007"), 8)  # The umask decides the mode of a unix socket.
backlog = 4096  # The kernel lowers the backlog to net.core.somaxconn.

# A request mostly waits for Nova, so the number of requests that can wait at the same time matters most. Two
# workers with 200 threads would be enough for all guests of a full host that boot together. But the threads
# of one process compete for the interpreter lock of Python, so four workers answer more requests, even on two
# cores. Workers with gevent use no threads: each such worker takes worker_connections connections.
workers = int(os.environ.get("MDMW_WORKERS", "4"))
worker_class = "gthread"
threads = int(os.environ.get("MDMW_THREADS", "200"))
worker_connections = 1000
graceful_timeout = 35  # Longer than agent_total_timeout, so that requests that have begun are still answered.

# Seconds that a connection may be idle between two requests. For gevent workers this is also the time limit
# for the headers of a request.
keepalive = _header_timeout

# W-9: the largest limit that gunicorn allows for the request line is 8190 bytes; gunicorn answers 414 to a
# longer line. mdmw answers 431 if all headers together are above 32 KiB. gunicorn answers 431 if one header
# is above 32 KiB, or if there are more than 64 headers.
limit_request_line = 8190
limit_request_field_size = 32768
limit_request_fields = 64

# gunicorn uses a parser in C as soon as the package gunicorn_h1c is installed. That parser answers some
# malformed requests differently, so an installed package must not decide which parser is used.
http_parser = "python"

# Only mdmw decides which guest asks. Without these settings gunicorn would believe such headers on a unix
# socket.
forwarded_allow_ips = ""
secure_scheme_headers = {}
forwarder_headers = ""

# All gunicorn servers of one user would use the same control socket, in the home directory.
control_socket_disable = True
errorlog = "-"
accesslog = None


_STOPS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
_CHECK_WITHIN = 30  # seconds; the arbiter replaces no worker while it waits for the check


def on_starting(arbiter):
    """Change how the arbiter (the first process of gunicorn) starts workers and reloads."""
    hold_stops(arbiter)
    _check_before_reload(arbiter)


def hold_stops(arbiter):
    """Block stop signals while a worker is forked.

    A new worker has no signal handlers yet. If a stop signal came at this moment, the worker would miss the
    signal, and the arbiter would wait graceful_timeout seconds for the worker.
    """
    spawn = arbiter.spawn_worker

    def spawn_worker():
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            return spawn()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    arbiter.spawn_worker = spawn_worker


def _check_before_reload(arbiter):
    """Make SIGHUP check the pipeline first: workers that cannot load the pipeline end the server."""
    reload = arbiter.handle_hup

    def handle_hup():
        check = [sys.executable, "-m", "mdmw", "check", _pipeline]
        try:
            checked = subprocess.run(  # noqa: S603 - no shell, a command of ours
                check, capture_output=True, text=True, check=False, timeout=_CHECK_WITHIN
            )
            is_right, problem = checked.returncode == 0, checked.stderr.strip()
        except subprocess.TimeoutExpired:
            is_right, problem = False, f"'mdmw check' did not end within {_CHECK_WITHIN} seconds"
        if is_right:
            reload()
        else:
            arbiter.log.error("SIGHUP: the old configuration stays in service: %s", problem)

    arbiter.handle_hup = handle_hup


def post_worker_init(worker):
    """Unblock the stop signals, and limit the time that a thread waits for a guest that sends nothing.

    A gthread worker has no such limit, so the kernel sets one (SO_RCVTIMEO).
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    for listener in worker.sockets:
        if listener.family != socket.AF_UNIX:  # Accepted TCP sockets inherit this option.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _header_timeout, 0))
