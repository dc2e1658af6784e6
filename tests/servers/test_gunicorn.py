"""What mdmw relies on in gunicorn beyond its settings.

`mdmw/node/conversation.py` parses with `RequestParser`. `mdmw/cli/on_gunicorn.py` has an arbiter and workers
of its own. `etc/gunicorn.conf.py` changes how the arbiter starts workers and reloads. setup.cfg has an upper
bound, so that a new major version of gunicorn is tried with these tests before it is installed anywhere.
"""

import configparser
import inspect
import logging
import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gunicorn.config
import gunicorn.http.errors
import pytest
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http import RequestParser
from gunicorn.workers.gthread import ThreadWorker
from packaging.requirements import Requirement
from packaging.version import Version

_ROOT = Path(__file__).parents[2]
_NAMES = {
    Arbiter: "start spawn_worker handle_hup handle_usr2 WORKER_BOOT_ERROR",
    BaseApplication: "load_config run",
    Logger: "setup reopen_files",
    ThreadWorker: "init_process init_signals handle_quit handle_exit notify is_parent_alive run",
    gunicorn.http.errors: "ParseException NoMoreData LimitRequestLine LimitRequestHeaders ExpectationFailed "
    "UnsupportedTransferCoding",
}


class Guest:
    """As much of a socket as the parser asks for."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent

    def recv(self, size: int) -> bytes:
        data, self._sent = self._sent[:size], self._sent[size:]
        return data


def test_every_requirement_has_an_upper_bound() -> None:
    parser = configparser.ConfigParser()
    parser.read(_ROOT / "setup.cfg", "utf-8")
    lists = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    lines = [line for each in lists for line in each.splitlines() if line.startswith("gunicorn")]
    assert lines
    installed = Version(version("gunicorn"))
    for line in lines:
        wanted = Requirement(line).specifier
        assert installed in wanted
        assert Version(f"{installed.major + 1}.0.0") not in wanted


@pytest.mark.parametrize("owner", _NAMES, ids=lambda owner: owner.__name__)
def test_the_names_are_there(owner: Any) -> None:
    assert [name for name in _NAMES[owner].split() if not hasattr(owner, name)] == []


def test_the_arbiter_finds_what_was_put_in_place_of_its_methods() -> None:
    """`etc/gunicorn.conf.py` sets both on the arbiter itself, which has to look there each time."""
    text = inspect.getsource(Arbiter)
    assert "self.spawn_worker()" in text
    assert 'getattr(self, "handle_%s"' in text
    assert list(inspect.signature(Arbiter.spawn_worker).parameters) == ["self"]
    assert list(inspect.signature(Arbiter.handle_hup).parameters) == ["self"]


def test_a_worker_is_made_as_before() -> None:
    names = ["self", "age", "ppid", "sockets", "app", "timeout", "cfg", "log"]
    assert list(inspect.signature(ThreadWorker.__init__).parameters) in (names, ["self", "args", "kwargs"])


def test_what_the_parser_makes_of_a_request() -> None:
    sent = (
        b"POST /a%20b?c=d HTTP/1.1\r\nHost: x\r\nX-A: b\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    )
    (request,) = RequestParser(gunicorn.config.Config(), Guest(sent), None)
    assert (request.method, request.uri, request.path, request.query) == (
        "POST",
        "/a%20b?c=d",
        "/a%20b",
        "c=d",
    )
    assert request.version == (1, 1)
    assert request.headers == [
        ("HOST", "x"),
        ("X-A", "b"),
        ("CONTENT-LENGTH", "3"),
        ("CONNECTION", "close"),
    ]
    assert request.body.read() == b"abc"
    assert request.should_close()


def test_the_parser_does_not_depend_on_other_packages() -> None:
    assert runpy.run_path(str(_ROOT / "etc" / "gunicorn.conf.py"))["http_parser"] == "python"


def test_a_setting_may_be_an_attribute_of_the_configuration() -> None:
    """`shipped_config` of mdmw-node makes each of them one, so that the parser finds it without a search."""
    config = gunicorn.config.Config()
    vars(config).update({name: setting.get() for name, setting in config.settings.items()})
    assert config.limit_request_line == config.settings["limit_request_line"].get()


@pytest.mark.parametrize(
    ("script", "within", "reloads", "problem"),
    [
        ("exit 0", 30, 1, ""),
        ("echo a mistake >&2; exit 2", 30, 0, "the old configuration stays in service: a mistake"),
        ("exec sleep 60", 0.2, 0, "did not end within 0.2 seconds"),
    ],
)
def test_a_reload_waits_for_its_check_only_so_long(
    script: str,
    within: float,
    reloads: int,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = tmp_path / "python"
    check.write_text(f"#!/bin/sh\n{script}\n")
    check.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(check))
    reloaded: list[bool] = []
    arbiter = SimpleNamespace(
        spawn_worker=None, handle_hup=lambda: reloaded.append(True), log=logging.getLogger("arbiter")
    )
    on_starting = runpy.run_path(str(_ROOT / "etc" / "gunicorn.conf.py"))["on_starting"]
    on_starting.__globals__["_CHECK_WITHIN"] = within
    on_starting(arbiter)
    arbiter.handle_hup()
    assert len(reloaded) == reloads
    assert problem in caplog.text
