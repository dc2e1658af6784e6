"""Upstreams under gevent: time-outs hold whenever the sockets were replaced (S-4)."""

import subprocess
import sys

import pytest
from peers import answers, dripping, response, silent

CODE = """
import sys, time
{before}
import gevent.monkey
from mdmw.errors import RequestError
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Limits, Upstream
{after}
import gevent
upstream = Upstream([Address("unix", path=sys.argv[1])], Limits(read_timeout=0.2, total_timeout=0.4))
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
gevent.spawn(tick)
began = time.monotonic()
for _ in range(2):
    try:
        print(upstream.exchange("GET", "/", []).status)
    except RequestError as error:
        print(type(error).__name__)
assert time.monotonic() - began < 3
assert len(ticks) > 3 or time.monotonic() - began < 0.1, "the others had to wait"
"""
PATCH = "import gevent.monkey; gevent.monkey.patch_all()"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (silent, ["BackendSlow", "BackendSlow"]),
        (dripping(response("200 OK", b"x" * 200), 0.01), ["BackendSlow", "BackendSlow"]),
        (answers(response("200 OK", b"x")), ["200", "200"]),
    ],
    ids=["silent", "dripping", "fine"],
)
def test_time_outs(peers, when, script, said):
    """A server that loads the application first (preload) replaces the sockets after the import."""
    code = CODE.format(**{"before": "", "after": ""} | {when: PATCH})
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, peers.unix(script).address.path],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.stdout.split() == said, ended.stderr
    assert ended.returncode == 0, ended.stderr
