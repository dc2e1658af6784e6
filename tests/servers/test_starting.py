"""Other ways to start: `gunicorn --paste`, uWSGI's `ini-paste`, a socket from systemd, a bad file."""

import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .client import Connection, request
from .launch import GUNICORN_CONF, SERVERS, UWSGI_INI, Launch, Listener
from .nova import Nova
from .pipelines import ADA
from .running import connected, started

ETC = GUNICORN_CONF.parent

# The first worker is told to stop before gunicorn has given it handlers of its own.
_STOPPED_EARLY = """
import os, runpy, signal
globals().update(runpy.run_path({conf!r}))

def post_fork(arbiter, worker):
    if worker.age == 1:
        os.kill(os.getpid(), signal.SIGTERM)
"""

# As systemd does it: the socket is file descriptor 3 of the process whose number is said.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _ask(listener: Listener) -> int:
    with Connection(connected(listener, None)) as connection:
        headers = [("Host", "x"), ("Connection", "close"), *ADA.to_agent()]
        connection.send(request("GET", "/started", headers))
        return connection.reply().status


def test_gunicorn_paste(directory: Path, ini: Path, nova: Nova) -> None:
    """`--paste file#pipeline` in the place of MDMW_PIPELINE."""
    listener = Listener(directory / "paste-gunicorn")
    command = [_script("gunicorn"), "--config", str(GUNICORN_CONF), "--paste", f"{ini}#agent"]
    launch = Launch([*command, "--bind", f"unix:{listener}"], {"MDMW_WORKERS": "1"})
    with started(launch, ini, (listener,), None, directory / "paste-gunicorn.log"):
        assert _ask(listener) == 200
    assert nova.requests[-1].all("X-Instance-ID") == [ADA.instance]


def test_uwsgi_paste(directory: Path, ini: Path, nova: Nova) -> None:
    """`ini-paste` takes the pipeline `main`; `paste` takes any."""
    listener = Listener(directory / "paste-uwsgi")
    command = [_script("uwsgi"), "--ini", str(UWSGI_INI), "--http-socket", str(listener), "--processes", "1"]
    launch = Launch([*command, "--paste", f"config:{ini}#agent"])
    with started(launch, ini, (listener,), None, directory / "paste-uwsgi.log"):
        assert _ask(listener) == 200
    assert nova.requests[-1].all("X-Instance-ID") == [ADA.instance]


def test_uwsgi_ini_paste(directory: Path, ini: Path, nova: Nova) -> None:
    """`ini-paste` reads [uwsgi] of that file too, and loads its `main`."""
    listener = Listener(directory / "ini-paste-uwsgi")
    own = directory / "with-main.ini"
    own.write_text(
        f"[uwsgi]\nini = {UWSGI_INI}\nprocesses = 1\n[composite:main]\nuse = config:{ini.name}#agent\n"
    )
    launch = Launch([_script("uwsgi"), "--http-socket", str(listener), "--ini-paste", str(own)])
    with started(launch, ini, (listener,), None, directory / "ini-paste-uwsgi.log"):
        assert _ask(listener) == 200
    assert nova.requests[-1].all("X-Instance-ID") == [ADA.instance]


def test_gunicorn_takes_the_socket_of_systemd(directory: Path, ini: Path, nova: Nova) -> None:
    """mdmw-agent.socket: LISTEN_FDS, and the socket's mode is systemd's."""
    path = directory / "activated"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(16)
        path.chmod(0o600)
        gunicorn = [_script("gunicorn"), "--config", str(GUNICORN_CONF)]
        command = [sys.executable, "-c", _ACTIVATE, str(listening.fileno()), *gunicorn]
        environ = {"MDMW_PIPELINE": "agent", "MDMW_WORKERS": "1"}
        listening.set_inheritable(True)
        with started(
            Launch(command, environ),
            ini,
            (Listener(path),),
            None,
            directory / "activated.log",
            (listening.fileno(),),
        ):
            assert _ask(Listener(path)) == 200
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("server", SERVERS)
def test_a_unix_socket_is_for_owner_and_group(server: str, directory: Path, ini: Path, nova: Nova) -> None:
    """Spec 1.9: the mode of the socket decides who may say who asks."""
    listener = Listener(directory / f"mode-{server}")
    launch = SERVERS[server]("agent", (listener,), 1)
    with started(launch, ini, (listener,), None, directory / f"mode-{server}.log"):
        mode = stat.S_IMODE(os.stat(str(listener)).st_mode)
    assert mode & 0o007 == 0
    assert mode & 0o660 == 0o660


@pytest.mark.parametrize("server", SERVERS)
def test_a_bad_file_ends_the_server_with_one_line(server: str, directory: Path) -> None:
    """Status other than 0, the line of mdmw, and no server that starts its workers for ever."""
    bad = directory / "bad.ini"
    bad.write_text("[pipeline:agent]\npipeline = nothing\n")
    launch = SERVERS[server]("agent", (Listener(directory / f"bad-{server}"),), 1)
    environ = {**os.environ, **launch.environ, "MDMW_PASTE_INI": str(bad)}
    done = subprocess.run(
        launch.command, env=environ, cwd=directory, timeout=40, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert f"mdmw: {bad}: " in said


@pytest.mark.parametrize("server", ["gunicorn", "gunicorn-gevent"])
def test_a_worker_that_is_stopped_while_it_starts_stops(server: str, directory: Path, ini: Path) -> None:
    """And does not wait for graceful_timeout: the signal is kept until somebody hears it."""
    listener, log = Listener(directory / f"early-{server}"), directory / f"early-{server}.log"
    conf = directory / f"early-{server}.conf.py"
    conf.write_text(_STOPPED_EARLY.format(conf=str(GUNICORN_CONF)))
    launch = SERVERS[server]("agent", (listener,), 1)
    command = [str(conf) if word.endswith("gunicorn.conf.py") else word for word in launch.command]
    with started(Launch(command, launch.environ), ini, (listener,), None, log):
        deadline = time.monotonic() + 20
        while log.read_text().count("Booting worker") < 2:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)  # a log cannot say when it grows


@pytest.mark.parametrize("unit", sorted((ETC / "systemd").glob("mdmw-*")), ids=lambda unit: unit.name)
def test_units_name_files_that_are_shipped(unit: Path) -> None:
    """The configuration that a unit names is the one that these tests run."""
    text = unit.read_text()
    if unit.name.startswith("mdmw-node"):  # its workers have NoNewPrivileges; the keeper enters namespaces
        assert "--ini /etc/mdmw/api-paste.ini" in text
    elif ".service" in unit.name:
        assert "--config /etc/mdmw/gunicorn.conf.py" in text
        assert "NoNewPrivileges=yes" in text
