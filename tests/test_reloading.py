"""Files that are read again: the last good content stays, and the log says what was wrong and where."""

import logging
import os
import threading

import pytest

from mdmw import reloading
from mdmw.errors import ConfigError
from mdmw.reloading import ReloadingFile


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
