"""top: its figures, and the live table in a terminal while guests ask."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from admin.local import host
from hypothesis import given
from hypothesis import strategies as st
from peers import PATIENCE

from mdmw.cli.figures import RequestFigures, figures_of
from mdmw.cli.top import Sample, as_lines, summary

BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
BOUNDS = (0.1, 1.0)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


# --- figures ----------------------------------------------------------------------------


def counted(durations, pipeline="agent", requests=None, failed=0, slowest=10.0, first=0.0):
    requests = sum(durations) if requests is None else requests
    return RequestFigures(pipeline, requests, 0, failed, tuple(durations), slowest, first, first)


@pytest.mark.parametrize(
    ("durations", "part", "seconds"),
    [
        ((10, 0, 0), 0.5, 0.05),
        ((10, 10, 0), 0.5, 0.1),
        ((10, 10, 0), 0.75, 0.55),
        ((0, 0, 4), 0.99, 10.0),
        ((0, 0, 0), 0.5, None),
    ],
)
def test_percentiles(durations, part, seconds):
    assert counted(durations).percentile(BOUNDS, part) == (seconds and pytest.approx(seconds))


@given(
    st.lists(st.floats(0.0001, 60), min_size=1, max_size=50),
    st.sampled_from([0.5, 0.9, 0.99, 1.0]),
)
def test_a_percentile_is_in_the_bucket_of_the_true_one(values, part):
    durations = [sum(v <= 0.1 for v in values), sum(0.1 < v <= 1 for v in values), sum(v > 1 for v in values)]
    found = counted(durations, slowest=max(values)).percentile(BOUNDS, part)
    assert 0 < found <= max(values)
    below, up_to = (
        max([0.0, *(b for b in BOUNDS if b < found)]),
        min([60.0, *(b for b in BOUNDS if b >= found)]),
    )
    assert sum(v <= below for v in values) <= part * len(values) <= sum(v <= up_to for v in values)


@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=3), st.lists(st.integers(0, 50), min_size=3, max_size=3)
)
def test_differences_add_up(before, added):
    now = [a + b for a, b in zip(before, added, strict=True)]
    assert counted(now).since(counted(before)).durations == tuple(added)


def test_processes_that_began_anew_count_from_there():
    assert counted((3, 0, 0)).since(counted((5, 0, 0))).requests == 3
    assert counted((3, 0, 0)).since(counted((1, 0, 0), pipeline="proxy")).requests == 3


def test_the_nearest_pipeline_comes_first():
    one = {
        "requests": 1,
        "statuses": {"0xx": 1},
        "durations": [1, 0, 0],
        "slowest": 0.1,
        "first": "2026-01-01T00:00:00.000+00:00",
        "last": "2026-01-01T00:00:00.000+00:00",
    }
    found = figures_of(dict.fromkeys(["nova", "agent", "mine", "proxy"], one))
    assert [one.pipeline for one in found] == ["proxy", "agent", "mine", "nova"]
    assert {one.failed for one in found} == {1}


# --- the view ---------------------------------------------------------------------------


def request(number, seconds, pipeline="agent", path="/", at="2026-01-01T00:00:10.000+00:00"):
    return {
        "request_id": f"req-{number}",
        "seconds": seconds,
        "pipeline": pipeline,
        "path": path,
        "method": "GET",
        "time": at,
        "status": 200,
        "address": None,
    }


def looked(at, places, requests=(), silent=()):
    return Sample(at, {("network", id_): one for id_, one in places.items()}, BOUNDS, requests, silent)


def test_rates_are_over_the_time_between_two_looks():
    before = looked(100.0, {"a": counted((5, 0, 0))})
    now = looked(110.0, {"a": counted((25, 0, 0), failed=4), "b": counted((1, 0, 0))})
    shown = summary(now, before)
    assert shown["over"] == 10.0
    assert [(one["id"], one["rate"], one["failed"], one["total"]) for one in shown["networks"]] == [
        ("a", 2.0, 4, 25),
        ("b", 0.1, 0, 1),
    ]
    assert shown["routers"] == []


def test_the_first_look_is_about_all_so_far():
    shown = summary(looked(110.0, {"a": counted((20, 0, 0), first=100.0)}), None)
    assert (shown["over"], shown["networks"][0]["rate"]) == (None, 2.0)
    assert "all so far: 2.0 requests/s" in as_lines(shown)[0]


def test_a_quiet_network_has_no_percentiles():
    before, now = (looked(at, {"a": counted((5, 0, 0))}) for at in (100.0, 110.0))
    place = summary(now, before)["networks"][0]
    assert (place["rate"], place["p50"], place["p99"]) == (0.0, None, None)


def test_each_slow_request_is_listed_once():
    """Five of them, as the pipeline saw it that had all of it, and none from before."""
    requests = [request(number, number / 10) for number in range(8)]
    requests += [request(7, 0.9, "proxy"), request(9, 30.0, at="1990-01-01T00:00:00.000+00:00")]
    slowest = summary(looked(1767225615.0, {}, requests), looked(1767225605.0, {}))["slowest"]
    assert [(one["request_id"], one["pipeline"]) for one in slowest] == [
        ("req-7", "proxy"),
        *((f"req-{number}", "agent") for number in (6, 5, 4, 3)),
    ]


@given(st.integers(1, 60), st.integers(0, 100), st.text(max_size=600))
def test_it_fits_and_nothing_moves_the_cursor(height, places, path):
    """Whatever a guest asks for."""
    many = {f"n{number}": counted((1, 0, 0)) for number in range(places)}
    silent = [{"pipeline": "agent", "pid": 7, "problem": "no answer"}]
    shown = as_lines(summary(looked(100.0, many, [request(1, 0.1, path=path)], silent), None), height)
    assert len(shown) <= height
    assert all(line.isprintable() and len(line) < 200 for line in shown)


# --- live -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served():
    with host() as made:
        made.serve("agent")
        made.serve("admin-local")
        yield made


@pytest.fixture
def asking(served):
    """A guest asks again and again, and now and then one that nobody knows."""
    over = threading.Event()

    def ask():
        while not over.wait(0.01):
            served.as_guest(BLUE, "10.0.0.5")
            served.as_guest(BLUE, "10.0.0.99")

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    over.set()
    thread.join()


class Terminal:
    """`mdmw top` in a terminal of its own."""

    def __init__(self, socket):
        self.main, self.other = _, other = pty.openpty()
        self.resize(24, 100)
        self.before = termios.tcgetattr(self.other)
        self.said = ""
        command = [sys.executable, "-m", "mdmw", "top", "--socket", str(socket), "--interval", "0.2"]
        environ = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
        self.process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            env=environ,
            preexec_fn=self._own,
            close_fds=True,
        )

    def _own(self):
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, rows, columns):
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def frame(self, pattern):
        """Wait for a frame in which there is this, and return its lines."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for text in reversed(self.said.split("\x1b[H")[1:]):
                if text.endswith("\x1b[J") and re.search(pattern, text):
                    return _ESCAPE.sub("", text).split("\r\n")
            self.more(deadline)

    def end(self):
        """Its status, once it has ended."""
        status = self.process.wait(PATIENCE)
        with contextlib.suppress(TimeoutError):
            while True:
                self.more(time.monotonic() + 0.1)
        return status

    def more(self, deadline):
        """Wait for more of what it says."""
        ready, _, _ = select.select([self.main], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise TimeoutError(self.said[-2000:])
        self.said += os.read(self.main, 65536).decode()

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.main)
        os.close(self.other)


@pytest.fixture
def top(served):
    """It runs."""
    with contextlib.closing(Terminal(served.folder / "admin-local")) as made:
        yield made


def test_a_live_table(top, asking):
    """Rates of guests that ask at this moment, then q."""
    frame = top.frame(r"the last \d+ s: [1-9]")
    assert re.match(
        r"mdmw [\d:]+, the last \d+ s: .* refused \(4xx\), 0 failed; 1 networks, 0 routers", frame[0]
    )
    rate, refused, failed, *_ = next(line.split() for line in frame if f"  network {BLUE}  " in line)
    assert (float(rate) > 1, int(refused) > 0, failed) == (True, True, "0")
    assert len(frame) <= 24
    assert max(map(len, frame)) <= 100
    os.write(top.main, b"xq")
    assert top.end() == 0
    assert top.said.endswith("\x1b[?25h\x1b[?1049l")
    assert termios.tcgetattr(top.other) == top.before


@pytest.mark.parametrize(("key", "status"), [(b"\x03", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_however_it_ends_the_terminal_is_as_before(top, key, status):
    top.frame("mdmw")
    if isinstance(key, bytes):
        os.write(top.main, key)
    else:
        top.process.send_signal(key)
    assert top.end() == status
    assert top.said.endswith("\x1b[?25h\x1b[?1049l")
    assert "Traceback" not in top.said
    assert termios.tcgetattr(top.other) == top.before


def test_ctrl_z_does_not_leave_it_to_the_shell(top):
    top.frame("mdmw")
    os.write(top.main, b"\x1a")
    shown = top.said.count("\x1b[H")
    while top.said.count("\x1b[H") < shown + 3:
        top.more(time.monotonic() + PATIENCE)
    os.write(top.main, b"q")
    assert top.end() == 0


def test_a_window_that_becomes_small(top, asking):
    top.frame("REQ/S")
    top.resize(5, 40)
    deadline = time.monotonic() + PATIENCE
    while len(frame := top.frame("mdmw")) > 5:
        top.more(deadline)
    assert max(map(len, frame)) <= 40


def test_an_api_that_goes_away_may_come_back(served):
    path = served.folder / "second"
    served.serve("admin-local", binds=[f"unix:{path}"])
    with contextlib.closing(Terminal(path)) as top:
        top.frame("REQ/S")
        served.processes["admin-local"].terminate()
        assert "no connection to" in top.frame("no connection to")[-1]
        served.serve("admin-local", binds=[f"unix:{path}"])
        deadline = time.monotonic() + PATIENCE
        while "no connection to" in top.frame("mdmw")[-1]:
            top.more(deadline)


def test_without_a_terminal_there_is_table_after_table(served, asking):
    command = [
        sys.executable,
        "-m",
        "mdmw",
        "top",
        "--interval",
        "0.1",
        "--socket",
        served.folder / "admin-local",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        tables = 0
        for line in process.stdout:
            assert "\x1b" not in line
            tables += BLUE in line
            if tables == 3:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_json_is_a_line_for_each_look(served, asking):
    command = [sys.executable, "-m", "mdmw", "top", "--json", "--interval", "0.1"]
    command += ["--socket", served.folder / "admin-local"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        first, second, _ = (json.loads(process.stdout.readline()) for _ in range(3))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert first["over"] is None
    assert second["over"] > 0
    assert [one["id"] for one in second["networks"]] == [BLUE]


def test_once(mdmw, served, asking):
    status, out, err = mdmw("top", "--once", "--socket", served.folder / "admin-local")
    assert (status, err) == (0, "")
    assert "all so far" in out
    assert json.loads(mdmw("top", "--once", "--json", "--socket", served.folder / "admin-local")[1])[
        "slowest"
    ]


@pytest.mark.parametrize("interval", ["0", "x", "-1", "nan", "1e9"])
def test_intervals_that_are_refused(mdmw, interval):
    status, _, err = mdmw("top", "--interval", interval)
    assert (status, "--interval" in err) == (2, True)
