"""access-log: options, destinations, and what is never in a line."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from guest import call
from observed import settle

from mdmw.errors import ConfigError
from mdmw.filters import access_log


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", "a-secret")])
    return [b"a-secret"]


class Log:
    """An application with an access log; `ask` returns when the line is written."""

    def __init__(self, destination, **options):
        made = access_log.filter_factory({}, destination=destination, **options)
        self.path = Path(destination)
        self.app = made(app)
        self.call = partial(call, self.app)

    def ask(self, *args, **kwargs):
        reply = self.call(*args, **kwargs)
        settle(self.app)
        return reply

    @property
    def lines(self):
        return self.path.read_text().splitlines()


@pytest.fixture
def logging_to(tmp_path):
    """Makes logs in a file."""
    return partial(Log, str(tmp_path / "access.log"))


def python(script, *arguments):
    """Run a script in a process of its own, with the modules of these tests."""
    here = Path(__file__).parent
    environ = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True)


def test_each_request_has_a_line(logging_to):
    log = logging_to(format="json")
    replies = [log.ask(target=f"/{number}") for number in range(3)]
    entries = [json.loads(line) for line in log.lines]
    assert [entry["path"] for entry in entries] == ["/0", "/1", "/2"]
    ids = [reply.value("X-Openstack-Request-Id") for reply in replies]
    assert [entry["request_id"] for entry in entries] == ids


@pytest.mark.parametrize("format", ["json", "text"])
def test_secrets_are_never_there(logging_to, format):
    """No body, no token, no other header, no value or name of the query, no password of a URL."""
    log = logging_to(format=format)
    names = ("X-aws-ec2-metadata-token", "Authorization", "Cookie", "X-Instance-ID-Signature")
    headers = [(name, "a-secret") for name in names]
    log.ask("POST", "/openstack/latest/password?a-secret=a-secret", headers, b"a-secret")
    target = "http://user:a-secret@169.254.169.254/latest?a-secret"
    log.ask("GET", "/", headers, RAW_URI=target)
    assert len(log.lines) == 2
    assert "secret" not in log.path.read_text()


def test_logrotate_needs_no_signal(logging_to):
    log = logging_to()
    log.ask(target="/before")
    log.path.rename(log.path.with_suffix(".1"))
    log.ask(target="/moved")
    assert ['"/moved"' in line for line in log.lines] == [True]
    log.path.unlink()
    log.ask(target="/removed")
    assert ['"/removed"' in line for line in log.lines] == [True]
    assert '"/before"' in log.path.with_suffix(".1").read_text()


def test_a_file_is_for_owner_and_group(logging_to):
    log = logging_to()
    log.ask()
    assert log.path.stat().st_mode & 0o137 == 0


_FULL = """
import resource, sys
from test_access_log import Log
log = Log(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
log.ask(target="/lost")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.ask(target="/after")
"""


def test_a_full_disk_costs_lines_and_breaks_none(tmp_path):
    """What was cut in the middle ends before the next line begins. The limit is of the process's files."""
    done = python(_FULL, str(tmp_path / "access.log"))
    assert "1 records of requests are lost: File too large" in done.stderr
    cut, whole = (tmp_path / "access.log").read_text().splitlines()
    assert len(cut) == 20
    assert '"/after"' in whole


_TO_STDERR = """
from test_access_log import Log
log = Log("stderr")
for number in range(100):
    log.call(target=f"/{number}")
"""


def test_stderr_gets_all_lines_though_the_process_ends_at_once():
    lines = python(_TO_STDERR).stderr.splitlines()
    assert [f'"/{number}"' in line for number, line in enumerate(lines)] == [True] * 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "xml"}, "option 'format': value 'xml'"),
        ({"destination": "access.log"}, "option 'destination': stderr or an absolute path is allowed"),
        ({"destination": "/nowhere/access.log"}, "option 'destination': there is no directory /nowhere"),
        ({"colour": "blue"}, "unknown option 'colour'"),
    ],
)
def test_a_bad_option_is_one_line(options, said):
    with pytest.raises(ConfigError) as error:
        access_log.filter_factory({}, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
