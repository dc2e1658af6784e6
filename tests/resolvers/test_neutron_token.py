"""One token for everybody who may share it, and Neutron's address that comes with it (R-16, R-17)."""

import logging
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from neutron_api import REGION, answer, config, says

from mdmw.errors import ConfigError, Unavailable
from mdmw.records import Scope, Source
from mdmw.resolvers import keystone
from mdmw.resolvers.keystone import GroupFile
from mdmw.resolvers.shared import GROUP_DIRECTORY
from mdmw.testing.resolvers import ADA as ADA_ID
from mdmw.testing.resolvers import BLUE

ADA = Source("10.0.0.5", Scope("network", BLUE))
REFUSED = says(answer({"error": {"message": "no"}}, "401 Unauthorized"))


def storm(resolver, threads=16, rounds=5):
    """What the threads got: instance ids, and errors."""
    got, start = [], threading.Barrier(threads)

    def work():
        start.wait()
        for _ in range(rounds):
            try:
                got.append(resolver.resolve(ADA).id)
            except Unavailable as error:
                got.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(got) == threads * rounds
    return got


# --- R-16 in one process --------------------------------------------------------------------


def test_r16_nothing_is_asked_at_load(cloud, neutron):
    """R-16, and the contract: the server forks after load."""
    neutron()
    assert cloud.keystone.connections == cloud.neutron.connections == 0


def test_r16_one_token_for_all_threads(cloud, neutron):
    """R-16: threads that begin together, and all that follows."""
    assert set(storm(neutron())) == {ADA_ID}
    assert len(cloud.tokens) == 1


def test_r16_one_401_makes_one_new_token_and_one_more_try(cloud, neutron):
    """R-16: the guest notices nothing."""
    resolver = neutron()
    resolver.resolve(ADA)
    cloud.revoke()
    assert resolver.resolve(ADA).id == ADA_ID
    used = [request.value("X-Auth-Token") for request in cloud.neutron.requests]
    assert used == [cloud.tokens[0], cloud.tokens[0], cloud.tokens[1]]


def test_r16_the_first_answer_may_be_a_401_too(cloud, neutron):
    """R-16: a token that is new can be refused once, while Neutron's own view of Keystone is old."""
    cloud.neutron_faults.acts.append(REFUSED)
    assert neutron().resolve(ADA).id == ADA_ID
    assert len(cloud.tokens) == 2


def test_r16_a_token_that_dies_in_a_storm_is_replaced_once(cloud, neutron):
    """R-16: concurrent 401s lead to one new token, and every request gets its answer."""
    resolver = neutron()
    resolver.resolve(ADA)
    for life in range(1, 4):
        cloud.revoke()
        assert set(storm(resolver)) == {ADA_ID}
        assert len(cloud.tokens) == life + 1
        resolver._queries._get.__self__._renewed_at = 0.0  # instead of waiting for `REST`


def test_r16_refused_for_ever(cloud, neutron):
    """R-16: one more try each, and one new token a second at most, whatever the storm."""
    cloud.neutron_faults.always = REFUSED
    got = storm(neutron())
    assert all(isinstance(error, Unavailable) for error in got)
    assert any("Neutron answers 401: the token is refused" in str(error) for error in got)
    assert len(cloud.tokens) <= 3


def test_r16_a_token_is_not_used_in_its_last_minute(cloud, neutron, monkeypatch):
    """R-16: `expires_at` - 60 s, on the clock of this machine."""
    cloud.token_life = 100.0
    resolver = neutron()
    resolver.resolve(ADA)
    now = time.time()
    monkeypatch.setattr(keystone.time, "time", lambda: now + 38)
    resolver.resolve(ADA)
    assert len(cloud.tokens) == 1
    monkeypatch.setattr(keystone.time, "time", lambda: now + 41)
    resolver.resolve(ADA)
    assert len(cloud.tokens) == 2


@pytest.mark.parametrize("life", [30.0, -3600.0])
def test_r16_short_lives_and_wrong_clocks_make_no_storm(cloud, neutron, life):
    """R-16: a token that seems to be over is used for a while all the same."""
    cloud.token_life = life
    assert set(storm(neutron())) == {ADA_ID}
    assert len(cloud.tokens) == 1


def test_r16_keystone_is_left_alone_after_it_refused(cloud, neutron):
    """A storm must not lock the account: one attempt a second, and its error is everybody's."""
    resolver = neutron(group={"password": "wrong"})
    errors = storm(resolver)
    assert {str(error) for error in errors} == {"Keystone refuses the credentials (401)"}
    posts = [request for request in cloud.keystone.requests if request.method == "POST"]
    assert len(posts) == 1


def test_r16_a_slow_keystone_holds_nobody_beyond_the_budget(cloud, neutron):
    """Who waits for another thread's token waits as long as for anything else, no longer."""
    cloud.keystone_faults.always = lambda conversation: conversation.hold()
    resolver = neutron(neutron_timeout="0.4", neutron_total_timeout="0.5")
    began = time.monotonic()
    errors = storm(resolver, rounds=1)
    assert time.monotonic() - began < 3
    assert all(isinstance(error, Unavailable) for error in errors)


# --- R-16 in a group of processes -------------------------------------------------------------

_WORKER = """
import sys
from neutron_api import close_kept, make_resolver
from test_neutron_token import ADA
resolver = make_resolver(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    print(resolver.resolve(ADA).id, flush=True)
close_kept(resolver)
"""


class Workers:
    """Processes that resolve once for each line they read."""

    def __init__(self, path, directory, count=6):
        here = Path(__file__).parent
        env = os.environ | {GROUP_DIRECTORY: str(directory), "PYTHONPATH": f"{here}:{here.parent}"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", _WORKER, path],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]
        self.heard("ready")

    def heard(self, text):
        for process in self.processes:
            assert process.stdout.readline().strip() == text

    def resolve(self):
        for process in self.processes:
            process.stdin.write("\n")
            process.stdin.flush()
        self.heard(ADA_ID)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for process in self.processes:
            process.stdin.close()
            process.stdout.close()
        for process in self.processes:
            assert process.wait(20) == 0


@pytest.fixture
def group_dir(tmp_path, monkeypatch):
    directory = tmp_path / "group"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv(GROUP_DIRECTORY, str(directory))
    return directory


def test_r16_one_token_for_a_group_of_processes(cloud, tmp_path, group_dir):
    """R-16: several workers authenticate once, and once again when their token is refused."""
    with Workers(config(str(tmp_path / "mdmw.conf"), cloud.group()), group_dir) as workers:
        workers.resolve()
        assert len(cloud.tokens) == 1
        cloud.revoke()
        workers.resolve()
        assert len(cloud.tokens) == 2
    (file,) = group_dir.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_r16_without_a_group_each_process_has_its_own(cloud, neutron):
    """The default: no file, and nothing shared."""
    neutron().resolve(ADA)
    neutron().resolve(ADA)
    assert len(cloud.tokens) == 2


def test_r16_other_credentials_have_another_token(cloud, neutron, group_dir):
    """A process that was given a new password must not live on the token of the old one."""
    neutron().resolve(ADA)
    neutron().resolve(ADA)
    assert len(cloud.tokens) == 1
    with pytest.raises(Unavailable, match="refuses the credentials"):
        neutron(group={"password": "wrong"}).resolve(ADA)


@pytest.mark.parametrize(
    "left", [b"\xff\x00", b"[]", b"{}", b'{"auth_token": "t", "body": []}', b'"x"', b"7"]
)
def test_r16_a_broken_token_file_is_as_good_as_none(cloud, neutron, group_dir, left):
    """R-16: a process that was killed while it wrote."""
    neutron().resolve(ADA)
    (file,) = group_dir.iterdir()
    file.write_bytes(left)
    neutron().resolve(ADA)
    neutron().resolve(ADA)
    assert len(cloud.tokens) == 2


def test_r16_a_token_that_ends_soon_is_not_taken_from_the_group(cloud, neutron, group_dir):
    """R-16: the minute counts for what another process left as well."""
    cloud.token_life = 59.0
    neutron().resolve(ADA)
    neutron().resolve(ADA)
    assert len(cloud.tokens) == 2


def test_r16_a_directory_that_vanished(cloud, neutron, group_dir, caplog):
    """Sharing is an economy: without it the process goes on alone, and says so."""
    resolver = neutron()
    group_dir.rmdir()
    assert resolver.resolve(ADA).id == ADA_ID
    assert "the token of Keystone is not shared with other processes" in caplog.text


def test_r16_a_process_that_never_ends_authenticating(cloud, neutron, group_dir):
    """R-16: the lock of the group is waited for no longer than anything else."""
    neutron().resolve(ADA)
    (file,) = group_dir.iterdir()
    holder = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        resolver = neutron(neutron_timeout="0.2", neutron_total_timeout="0.2")
        with pytest.raises(Unavailable, match="Keystone: another process did not finish authenticating"):
            resolver.resolve(ADA)
        process.stdin.close()


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_r16_a_directory_that_others_can_enter(cloud, neutron, group_dir, mode):
    """A token is as good as a password."""
    group_dir.chmod(mode)
    with pytest.raises(ConfigError, match=f"{GROUP_DIRECTORY}: .* must be a directory of mode 0700"):
        neutron()


def test_r16_a_directory_that_is_not_there(cloud, neutron, monkeypatch):
    """The command that starts the group makes it."""
    monkeypatch.setenv(GROUP_DIRECTORY, "/nowhere/at/all")
    with pytest.raises(ConfigError, match=f"{GROUP_DIRECTORY}: .*No such file"):
        neutron()


# --- R-17 -------------------------------------------------------------------------------------


def test_r17_region_and_interface_choose_the_endpoint(cloud, neutron):
    """R-17: the catalogue has another region first, with an address that nobody answers at."""
    cloud.interfaces = {"admin"}
    assert neutron(group={"valid_interfaces": "internal,admin"}).resolve(ADA).id == ADA_ID
    resolver = neutron()
    with pytest.raises(Unavailable) as error:
        resolver.resolve(ADA)
    assert str(error.value) == (
        "Keystone has no endpoint of Neutron in its catalogue for service_type network, "
        f"interface ['internal', 'public'], region_name {REGION}"
    )


@pytest.mark.parametrize("end", ["", "/", "/v2.0", "/v2.0/"])
def test_r17_endpoint_override(cloud, neutron, end):
    """R-17: an option wins over the catalogue, with the version of the API in it or without."""
    cloud.interfaces = set()
    resolver = neutron(group={"endpoint_override": f"{cloud.neutron.address}{end}"})
    assert resolver.resolve(ADA).id == ADA_ID


def test_r17_the_endpoint_comes_and_goes_with_the_token(cloud, neutron):
    """R-17: an endpoint that moved is found with the next token."""
    resolver = neutron()
    resolver.resolve(ADA)
    asked = len(cloud.keystone.requests)
    resolver.resolve(ADA)
    assert len(cloud.keystone.requests) == asked
    cloud.interfaces = set()
    cloud.revoke()
    with pytest.raises(Unavailable, match="no endpoint of Neutron"):
        resolver.resolve(ADA)


# --- secrets ----------------------------------------------------------------------------------


def test_tokens_and_passwords_reach_no_log(cloud, neutron, caplog):
    """Not even at DEBUG, where keystoneauth1 logs answers of Keystone."""
    caplog.set_level(logging.DEBUG)
    resolver = neutron()
    resolver.resolve(ADA)
    cloud.revoke()
    resolver.resolve(ADA)
    assert not [record for record in caplog.records if record.name.startswith("keystoneauth")]
    text = caplog.text + repr(resolver._queries._get.__self__._access)
    assert not [secret for secret in (*cloud.tokens, "battery staple") if secret in text]


def test_r16_the_lock_of_the_token_ends_although_a_child_was_forked_inside(tmp_path):
    """The child has the file open too: closing it in the parent does not release the lock."""
    reading, writing = os.pipe()
    with GroupFile(tmp_path / "token").exclusive(1.0):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    try:
        with GroupFile(tmp_path / "token").exclusive(0.1):
            pass
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)
