"""Who may do what, by the rules of the code and by a file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from administered import ADMIN, READER, TENANT, Api, operator

from mdmw.admin.operations import OPERATIONS
from mdmw.admin.policy import Policy
from mdmw.errors import ConfigError, Forbidden

ROOT = Path(__file__).parents[2]
BY_NAME = {operation.name: operation for operation in OPERATIONS}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_matrix(api, operation):
    """Each operation for an administrator, for somebody who may look, for a tenant and for nobody at all."""

    def is_let_in(by):
        path = operation.path.replace("{id}", "x")
        reply, _ = api.ask(operation.method, path, {} if operation.body else None, by=by)
        return reply.status != 403

    reads = operation.method == "GET" and operation.name not in ("get_inventory_instance", "get_config")
    assert [is_let_in(by) for by in (ADMIN, READER, TENANT, operator())] == [True, reads, False, False]
    if operation.method == "GET":
        assert api.ask("HEAD", operation.path.replace("{id}", "x"), by=TENANT)[0].status == 403


def test_an_answer_to_the_wrong_person_tells_nothing_of_what_is_there(api):
    """403 comes before 400, 404, 412 and 428."""
    for method, path in (("GET", "/v1/inventory/networks/x"), ("DELETE", "/v1/inventory/networks/x")):
        assert api.ask(method, path, by=TENANT)[0].status == 403
    assert api.ask("POST", "/v1/inventory/networks", body=b"{", by=TENANT)[0].status == 403


def write(path, text):
    """A file that is newer than what was there."""
    path.write_text(text)
    os.utime(path, ns=(path.stat().st_mtime_ns + 1_000_000,) * 2)
    return path


def test_a_file_overrides_rules(tmp_path):
    path = write(tmp_path / "policy.yaml", "reader: role:auditor\nmdmw:reload: 'rule:reader'\n")
    policy = Policy(str(path))
    auditor = operator("auditor")
    policy.check(BY_NAME["list_networks"], auditor)
    policy.check(BY_NAME["reload"], auditor)
    for name, by in (("list_networks", READER), ("reload", ADMIN), ("purge_cache", auditor)):
        with pytest.raises(Forbidden):
            policy.check(BY_NAME[name], by)


def test_a_file_is_read_again(tmp_path):
    """A version with a mistake is not used."""
    path = write(tmp_path / "policy.yaml", "{}")
    policy = Policy(str(path))
    policy._file._next_look = 0
    policy.check(BY_NAME["reload"], ADMIN)
    for text, allowed in (
        ("mdmw:reload: '!'", False),
        ("mdmw:reload: 'role:admin or'", False),
        ("mdmw:reload: '@'", True),
    ):
        write(path, text)
        policy._file._next_look = 0
        if allowed:
            policy.check(BY_NAME["reload"], TENANT)
        else:
            with pytest.raises(Forbidden):
                policy.check(BY_NAME["reload"], ADMIN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reader: 'role:admin or'", "is not a rule"),
        ("reader: 'so and so'", "is not a rule"),
        ("reader: rule:nobody", "a rule that does not exist"),
        ("reader: rule:reader", "uses itself"),
        ("mdmw:relaod: '@'", "no operation and no other rule uses this rule"),
        ("reader: 1", "each with a text"),
        ("- reader", "each with a text"),
        ("reader: [", "flow"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_file_that_is_refused(tmp_path, text, said, capfd):
    """One line, and nothing else on standard error."""
    path = tmp_path / "policy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        Api(policy_file=path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_rules_of_ones_own(tmp_path):
    path = write(tmp_path / "policy.yaml", "noc: role:noc and project_id:p-1\nreader: rule:noc\n")
    Policy(str(path)).check(BY_NAME["list_networks"], operator("noc"))


def test_no_file_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError):
        Api(policy_file=tmp_path / "nothing.yaml")


def test_the_sample_is_what_the_code_says():
    """Made by oslo.policy's own generator; it allows nothing else, as all of it is a comment."""
    command = [Path(sys.executable).with_name("oslopolicy-sample-generator"), "--namespace", "mdmw"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sample = ROOT / "etc" / "policy.yaml"
    assert sample.read_text().partition("\n\n")[2].strip() == made.strip()
    Api(policy_file=sample)
