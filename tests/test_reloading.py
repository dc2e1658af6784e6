"""Files that are read again: the last good content stays, and the log says what was wrong and where."""

import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mdmw import reloading
from mdmw.errors import ConfigError, Unavailable
from mdmw.inventory import parsing_process
from mdmw.inventory.file import load
from mdmw.reloading import ReloadingFile, with_rests
from mdmw.wsgi import pipelines


def parse(path):
    text = path.read_text()
    if text.startswith("bad"):
        raise ConfigError(f"{path}:1: {text!r}: anything but bad is allowed")
    return text


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    return path


def test_first_load_must_be_good(path):
    path.write_text("bad")
    with pytest.raises(ConfigError):
        ReloadingFile(str(path), parse, interval=0)


def test_a_change_is_seen(path):
    file = ReloadingFile(str(path), parse, interval=0)
    assert file.value() == "one"
    path.write_text("three")
    assert file.value() == "three"


def test_a_change_of_equal_size_is_seen(path):
    file = ReloadingFile(str(path), parse, interval=0)
    replacement = path.with_name("new")
    replacement.write_text("two")
    stamp = path.stat()
    os.utime(replacement, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    replacement.rename(path)
    assert file.value() == "two"


def test_a_bad_edit_keeps_the_last_good_content(path, caplog):
    file = ReloadingFile(str(path), parse, interval=0)
    path.write_text("bad edit")
    assert [file.value(), file.value()] == ["one", "one"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"{path}:1: 'bad edit': anything but bad is allowed" in record.getMessage()
    path.write_text("four")
    assert file.value() == "four"


def test_between_looks_nothing_is_read(path):
    reads = []
    file = ReloadingFile(str(path), lambda p: reads.append(p) or len(reads), interval=3600)
    path.write_text("changed")
    assert [file.value(), file.value()] == [1, 1]


def test_an_unchanged_file_is_not_parsed_again(path):
    reads = []
    file = ReloadingFile(str(path), lambda p: reads.append(p) or len(reads), interval=0)
    assert [file.value(), file.value()] == [1, 1]


def test_who_finds_nothing_need_not_wait_for_the_next_look(path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(reloading.time, "monotonic", lambda: now[0])
    file = ReloadingFile(str(path), parse, interval=10)
    path.write_text("three")
    assert (file.value(), file.newest()) == ("one", "one")  # it was looked at a moment ago
    now[0] += 0.1
    assert (file.value(), file.newest(), file.value()) == ("one", "three", "three")


@pytest.mark.parametrize("what", ["newest", "value"])
def test_who_asks_for_the_newest_waits_for_who_is_reading(path, what):
    """Whoever asks for `value` does not."""
    reading, go_on = threading.Event(), threading.Event()

    def slow(path):
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            assert go_on.wait(10)
        return parse(path)

    file = ReloadingFile(str(path), slow, interval=0)
    path.write_text("three")
    other = threading.Thread(target=file.value)
    other.start()
    assert reading.wait(10)
    if what == "newest":
        threading.Timer(0.1, go_on.set).start()
    assert getattr(file, what)() == {"newest": "three", "value": "one"}[what]
    go_on.set()
    other.join()


# --- a request does not wait for a large file ---------------------------------------------------


class SlowReading:
    """`parse` for a file whose reading takes until `go_on` is set, but for the first time."""

    def __init__(self):
        self.reading, self.go_on = threading.Event(), threading.Event()
        self._calls = itertools.count()

    def __call__(self, path):
        if next(self._calls):
            self.reading.set()
            assert self.go_on.wait(20)
        return parse(path)


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(reloading, "_RECENT", 0.0)
    slow = SlowReading()
    yield slow
    slow.go_on.set()


def test_the_request_that_notices_a_change_waits_for_a_moment_only(path, slow, monkeypatch):
    monkeypatch.setattr(reloading, "_GRACE", 0.05)
    file = ReloadingFile(str(path), slow, interval=0)
    path.write_text("three")
    for _ in range(3):
        began = time.monotonic()
        assert file.value() == "one"
        assert time.monotonic() - began < 1
    slow.go_on.set()
    assert file.newest() == "three"


def test_who_finds_nothing_is_told_to_come_back(path, slow, monkeypatch):
    """503 and not 404, since the new content may have the guest; one thread reads, however many ask."""
    monkeypatch.setattr(reloading, "_GRACE", 0.01)
    monkeypatch.setattr(reloading, "_PATIENCE", 0.1)
    file = ReloadingFile(str(path), slow, interval=0)
    path.write_text("three")
    for _ in range(2):
        with pytest.raises(Unavailable, match=f"{path} has changed and is not yet read") as error:
            file.newest()
    assert error.value.retry_after == 1
    assert sum(thread.name == "mdmw-reload" for thread in threading.enumerate()) == 1
    slow.go_on.set()
    monkeypatch.setattr(reloading, "_PATIENCE", 20)
    assert file.newest() == "three"


def test_a_change_while_the_last_one_is_read_is_read_too(path, slow, monkeypatch):
    monkeypatch.setattr(reloading, "_GRACE", 0.01)
    monkeypatch.setattr(reloading, "_PATIENCE", 20)
    file = ReloadingFile(str(path), slow, interval=0)
    path.write_text("three")
    assert file.value() == "one"
    path.write_text("fourth")
    slow.go_on.set()
    file.newest()
    assert file.newest() == "fourth"


def test_no_thread_to_be_had(path, monkeypatch, caplog):
    """The old content stays, and the next request tries again."""
    monkeypatch.setattr(reloading, "_RECENT", 0.0)
    file = ReloadingFile(str(path), parse, interval=0)
    path.write_text("three")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no thread")))
        assert [file.value(), file.newest()] == ["one", "one"]
    assert "cannot be read now: no thread" in caplog.text
    assert file.value() == "three"


def test_a_defect_of_the_parser_keeps_the_last_good_content(path, caplog, monkeypatch):
    monkeypatch.setattr(reloading, "_RECENT", 0.0)
    file = ReloadingFile(str(path), lambda path: 1 / (path.read_text() != "zero"), interval=0)
    path.write_text("zero")
    assert [file.value(), file.value()] == [1, 1]
    assert "ZeroDivisionError" in caplog.text
    path.write_text("good again")
    assert file.newest() == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_what_is_derived_changes_with_the_content(path):
    file = ReloadingFile(str(path), parse, interval=0)
    length, upper = file.derived(len), file.derived(str.upper)
    assert (length.value(), upper.value()) == (3, "ONE")
    path.write_text("three")
    assert (length.value(), upper.value(), upper.newest()) == (5, "THREE", "THREE")


def test_rests_change_nothing():
    assert list(with_rests(range(1000))) == list(range(1000))


# --- an inventory ---------------------------------------------------------------------------------

BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
SUBNET = "2f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"


def inventory_of(number, name="guest"):
    head = f"networks:\n- id: {BLUE}\n  subnets:\n  - id: {SUBNET}\n    cidr: 10.0.0.0/16\ninstances:\n"
    return head + "".join(
        f"- id: 00000000-0000-4000-8000-{i:012d}\n  project_id: p{i % 7}\n  name: {name}{i}\n"
        f"  meta: {{role: r{i % 3}}}\n  ports:\n  - id: 10000000-0000-4000-8000-{i:012d}\n"
        f"    network: {BLUE}\n    mac: fa:16:3e:00:{i >> 8:02x}:{i & 255:02x}\n"
        f"    addresses: [10.0.{i >> 7}.{i & 127}]\n"
        for i in range(1, number + 1)
    )


@pytest.fixture
def inventory(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(inventory_of(1500))
    return path


def no_thread_of_ours(*_):
    raise AssertionError("it was parsed in this process")


def test_a_large_inventory_is_parsed_in_another_process(inventory, monkeypatch):
    """All of it arrives as it was."""
    expected = load(inventory)
    monkeypatch.setattr(parsing_process, "load", no_thread_of_ours)
    assert parsing_process.load_aside(inventory) == expected


def test_its_mistakes_are_told_as_ever(inventory, monkeypatch):
    monkeypatch.setattr(parsing_process, "load", no_thread_of_ours)
    text = inventory.read_text()
    inventory.write_text(text.replace("name: guest1499\n", "nmae: guest1499\n"))
    line = text[: text.index("name: guest1499\n")].count("\n") + 1
    with pytest.raises(ConfigError, match=rf"^{inventory}:{line}: instances\[1498\].nmae: unknown key"):
        parsing_process.load_aside(inventory)


@pytest.mark.parametrize("size", [0, 64 * 1024])
def test_a_small_inventory_needs_no_process(inventory, monkeypatch, size):
    monkeypatch.setattr(parsing_process, "_python", no_thread_of_ours)
    inventory.write_text(inventory_of(3).ljust(size))
    assert len(parsing_process.load_aside(inventory).instances) == 3


@pytest.mark.parametrize("python", ["/nowhere/python3", "/bin/true"])
def test_without_such_a_process_it_is_parsed_here(inventory, monkeypatch, caplog, python):
    monkeypatch.setattr(parsing_process, "_python", lambda: python)
    assert len(parsing_process.load_aside(inventory).instances) == 1500
    assert "is parsed in this process, which slows requests down" in caplog.text


def test_the_interpreter_of_a_server_that_embeds_python(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    found = subprocess.run([parsing_process._python(), "-c", "print(1)"], capture_output=True, check=True)
    assert found.stdout == b"1\n"


_OTHERS_GO_ON = """
import sys
if sys.argv[2] == "gevent":  # as gunicorn's workers
    from gevent import monkey
    monkey.patch_all()
if sys.argv[2] == "node":
    from gevent import monkey
    monkey.patch_all(os=False, signal=False, subprocess=False)
import gc, threading, time
from pathlib import Path
from types import SimpleNamespace
from mdmw.inventory import source
from mdmw.resolvers.inventory import _Tables

path = Path(sys.argv[1])
sys.setswitchinterval(0.1)
inventory = source.inventory_of(SimpleNamespace(place="test", inventory_file=str(path)))
inventory.derived(_Tables)
gc.freeze()
longest, stopped = 0.0, False

def serve():
    global longest
    last = time.perf_counter()
    while not stopped:
        time.sleep(0.002)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now

server = threading.Thread(target=serve)
server.start()
time.sleep(0.1)
old = inventory.value()
path.write_text(path.read_text().replace("name: guest7", "name: other7"))
inventory._next_look = 0
began = time.perf_counter()
while inventory.value() is old:
    time.sleep(0.01)
stopped = True
server.join()
print(longest, time.perf_counter() - began)
"""


@pytest.mark.parametrize(("kind", "number"), [("threads", 4_000), ("gevent", 3_000), ("node", 2_000)])
def test_requests_go_on_while_a_large_inventory_is_read(tmp_path, kind, number):
    """Other threads, and other greenlets, with the settings of a server. A busy machine adds to the gaps."""
    path = tmp_path / "inventory.yaml"
    path.write_text(inventory_of(number))
    command = [sys.executable, "-c", _OTHERS_GO_ON, str(path), kind]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    longest, whole = map(float, told.stdout.split())
    assert longest < max(0.1, whole / 3)


INI = """
[pipeline:main]
pipeline = identify resolve responder

[filter:identify]
use = egg:mdmw#source-identify
mode = fixed
network_id = {network}

[filter:resolve]
use = egg:mdmw#instance-resolve
resolver = inventory
inventory_file = {inventory}

[app:responder]
use = egg:mdmw#responder
inventory_file = {inventory}
password_db = {inventory}.passwords
"""


def test_resolver_and_responder_of_a_pipeline_share_one_inventory(tmp_path, inventory, monkeypatch):
    """And no two pipelines do, nor two loads of one."""
    parsed = []
    monkeypatch.setattr("mdmw.inventory.source.load", lambda path: parsed.append(path) or load(path))
    ini = tmp_path / "mdmw.ini"
    ini.write_text(INI.format(network=BLUE, inventory=inventory))
    first = pipelines.load("main", str(ini))
    assert parsed == [Path(inventory)]
    second = pipelines.load("main", str(ini))
    assert len(parsed) == 2
    assert first is not second
