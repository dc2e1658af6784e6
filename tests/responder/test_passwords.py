"""Passwords are written once (spec 7.4)."""

import os
import sqlite3
import subprocess
import sys
import threading

import pytest
from responder_client import GUESTS, client

from mdmw.errors import Unavailable
from mdmw.records import INSTANCE, Instance
from mdmw.responder.passwords import PasswordFile, PasswordsInMemory

PATH = "/openstack/2013-04-04/password"
TEXT = "text/plain; charset=UTF-8"


def test_spec_7_4_unset_is_empty(get):
    """Spec 7.4: 200 with an empty body (W-15), for HEAD too."""
    for method in ("GET", "HEAD"):
        answer = get(PATH, method)
        assert (answer.status, answer.body, answer.type) == (200, b"", TEXT)
        assert answer.headers["Content-Length"] == "0"


def test_spec_7_4_written_once(get):
    """Spec 7.4: stored, then 409; each guest has its own; every version shows the same."""
    stored = get(PATH, "POST", b"first", CONTENT_TYPE="application/x-www-form-urlencoded")
    assert (stored.status, stored.body) == (200, b"")
    assert get(PATH, "POST", b"second").status == 409
    assert get("/openstack/latest/password").body == b"first"
    assert get(PATH, guest="red-1").body == b""


def test_spec_7_4_raw_bytes(get):
    """Spec 7.4: the body is raw."""
    body = bytes(range(256))
    assert get(PATH, "POST", body).status == 200
    assert get(PATH).body == body


@pytest.mark.parametrize(("length", "status"), [(1020, 200), (1021, 400), (70_000, 400)])
def test_spec_7_4_length(get, length, status):
    """Spec 7.4: 1020 bytes are allowed, more are 400."""
    assert get(PATH, "POST", b"x" * length).status == status
    assert len(get(PATH).body) == (length if status == 200 else 0)


def test_spec_7_4_chunked(get):
    """Spec 7.4: a body without a length, where the server decodes the chunks."""
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    assert get(PATH, "POST", b"x" * 1021, **chunked).status == 400
    assert get(PATH, "POST", b"x" * 1020, **chunked).status == 200


def test_spec_7_4_incomplete_body_stores_nothing(get):
    """W-8: a guest that stops early has not set anything."""
    assert get(PATH, "POST", b"half", CONTENT_LENGTH="8").status == 400
    assert get(PATH).body == b""


def test_spec_7_4_empty_body_is_taken_and_sets_nothing(get):
    """As Nova: an empty password counts as none."""
    assert get(PATH, "POST", b"").status == 200
    assert get(PATH, "POST", b"real").status == 200
    assert get(PATH).body == b"real"


def test_spec_7_4_password_of_the_inventory(get):
    """One that the inventory sets is there from the start."""
    assert get(PATH, guest="green-1").body == b"c2FtcGxlIGNpcGhlcnRleHQ="
    assert get(PATH, "POST", b"other", guest="green-1").status == 409


def test_spec_7_4_unknown_instance(get):
    """Spec 7.4: 400 for a POST, 404 for a GET (spec 3.2)."""
    unknown = {INSTANCE: Instance("7c52af88-0000-4000-8000-be154d8c8638", "p", "")}
    assert get(PATH, "POST", b"x", **unknown).status == 400
    assert get(PATH, **unknown).status == 404


def test_spec_7_4_not_before_its_version(get):
    """Spec 7.2: since 2013-04-04."""
    assert get("/openstack/2012-08-10/password").status == 404
    assert get("/openstack/2012-08-10/password", "POST", b"x").status == 404
    assert get("/openstack/2012-01-01/password").status == 404


def test_spec_7_4_never_logged(get, caplog):
    """Spec 7.4: no log line has it."""
    caplog.set_level("DEBUG")
    get(PATH, "POST", b"very-secret")
    get(PATH, "POST", b"very-secret")
    get(PATH, "POST", b"very-secret" * 100)
    assert "very-secret" not in caplog.text


def test_a_store_that_fails_is_unavailable(tmp_path, get):
    """1.6: a fault that passes is 503, with Retry-After."""
    path = tmp_path / "passwords.sqlite"
    path.write_text("this is no database" * 100)
    get = client(passwords=PasswordFile(path))
    answer = get(PATH)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert str(tmp_path) not in answer.text


# --- the store --------------------------------------------------------------------------


def test_file_is_made_when_first_used(tmp_path):
    path = tmp_path / "state" / "passwords.sqlite"
    store = PasswordFile(path)
    assert not path.exists()
    assert store.put("a", b"x")
    assert path.stat().st_mode & 0o777 == 0o600


def test_file_is_shared_and_kept(tmp_path):
    path = tmp_path / "passwords.sqlite"
    one, two = PasswordFile(path), PasswordFile(path)
    assert one.put("a", b"x")
    assert not two.put("a", b"y")
    assert two.get("a") == b"x"
    assert PasswordFile(path).get("a") == b"x"


@pytest.mark.parametrize("where", ["memory", "file"])
def test_threads_race_and_one_wins(tmp_path, where):
    store = PasswordsInMemory() if where == "memory" else PasswordFile(tmp_path / "passwords.sqlite")
    start = threading.Barrier(8)
    results = []

    def work(number):
        start.wait()
        results.append((store.put("a", str(number).encode()), number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for won, number in results if won]
    assert store.get("a") == str(winner).encode()


def test_a_process_that_forks_shares_the_file(tmp_path):
    """A server loads the application, is asked once perhaps, and forks its workers then."""
    store = PasswordFile(tmp_path / "passwords.sqlite")
    assert store.put("a", b"x")
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get("a") == b"x" and store.put("b", b"y") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (store.get("a"), store.get("b")) == (b"x", b"y")


def test_memory_is_written_once():
    """The same bytes twice are two attempts, also where Python has one object for them."""
    store = PasswordsInMemory()
    assert store.put("a", b"x")
    assert not store.put("a", b"x")
    assert not store.put("a", b"y")
    assert (store.get("a"), store.get("b")) == (b"x", b"")


def test_a_locked_file_is_unavailable(tmp_path, monkeypatch):
    path = tmp_path / "passwords.sqlite"
    monkeypatch.setattr("mdmw.responder.passwords._BUSY_SECONDS", 0)
    store = PasswordFile(path)
    store.get("a")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked"):
        store.put("a", b"x")
    other.execute("ROLLBACK")
    other.close()
    assert store.put("a", b"x")


def test_guests_do_not_share_names(get):
    """Instances are told apart by their whole id."""
    for name in GUESTS:
        if not GUESTS[name].password:
            assert get(PATH, "POST", name.encode(), guest=name).status == 200
    assert get(PATH, guest="red-1").body == b"red-1"


def test_a_locked_file_stops_no_other_greenlet(tmp_path):
    """SQLite's own wait would: a guest's password is stored when the file is free, and others go on."""
    path = tmp_path / "passwords.sqlite"
    PasswordFile(path).get("a")
    told = subprocess.run(
        [sys.executable, "-c", _GREENLETS, str(path)], capture_output=True, text=True, check=True
    )
    assert told.stdout == "True True\n"


_GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sqlite3, sys
from contextlib import closing
from pathlib import Path
import gevent
from mdmw.responder.passwords import PasswordFile

path = Path(sys.argv[1])
with closing(sqlite3.connect(path, isolation_level=None)) as other:
    other.execute("BEGIN EXCLUSIVE")
    waits = gevent.spawn(PasswordFile(path).put, "a", b"x")
    turns = []
    for _ in range(10):
        gevent.sleep(0.01)
        turns.append(waits.ready())
    other.execute("COMMIT")  # only this greenlet can: one that waits in SQLite would wait in vain
print(waits.get(), not any(turns))
"""
