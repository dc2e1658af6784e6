"""The admin API behind the real Keystone: tokens of every kind, and Keystone away."""

import contextlib
import datetime
import json
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from admin.local import Connection
from cloud.settings import AUTH_URL, KEYSTONE_PORT, credentials
from keystoneauth1 import session
from keystoneauth1.identity.v3 import ApplicationCredential, Password

from bench.topology import inside, within
from mdmw.cli import serve

ROOT = Path(__file__).parents[2]
BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
NETWORKS = "/v1/inventory/networks"
PASSWORD = "of a user of these tests"
INI = """
[pipeline:admin]
pipeline = authtoken admin-api
[filter:authtoken]
use = egg:mdmw#authtoken
config_file = {folder}/admin.conf
token_cache_time = {remembered}
[app:admin-api]
use = egg:mdmw#admin
introspect_dir = {folder}/processes
inventory_db = {folder}/inventory.sqlite
"""


class Keystone:
    """What the administrator of the cloud does there, and tokens for others."""

    def __init__(self, cloud):
        self._cloud = cloud
        self._domain = {"user_domain_id": "default", "project_domain_id": "default"}

    def user(self, role, system=False):
        """A new user with one role: of the project tenant-1, or of the whole system. Its id."""
        api = self._cloud.api
        project = self._project()
        described = {"name": f"user-{uuid.uuid4()}", "domain_id": "default", "password": PASSWORD}
        user = api.keystone("POST", "/users", user=described)["user"]["id"]
        role_id = api.keystone("GET", f"/roles?name={role}")["roles"][0]["id"]
        where = "/system" if system else f"/projects/{project}"
        api.keystone("PUT", f"{where}/users/{user}/roles/{role_id}")
        return user

    def token(self, user, system=False):
        scope = {"system_scope": "all"} if system else {"project_id": self._project()}
        return self._of(Password(AUTH_URL, user_id=user, password=PASSWORD, **scope))

    def expiring(self, user, seconds):
        """A token that is good for some seconds, by an application credential that is."""
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        described = {
            "name": "short",
            "expires_at": until.strftime("%Y-%m-%dT%H:%M:%S.%f"),
            "roles": [{"name": "admin"}],
        }
        auth = Password(AUTH_URL, user_id=user, password=PASSWORD, project_id=self._project())
        with inside(self._cloud.node):
            answer = session.Session(auth).post(
                f"{AUTH_URL}/users/{user}/application_credentials", json={"application_credential": described}
            )
        made = answer.json()["application_credential"]
        token = self._of(
            ApplicationCredential(
                AUTH_URL, application_credential_id=made["id"], application_credential_secret=made["secret"]
            )
        )
        return token, until.timestamp()

    def revoke(self, token):
        """As `openstack token revoke`."""
        with inside(self._cloud.node):
            session.Session().delete(
                f"{AUTH_URL}/auth/tokens", headers={"X-Auth-Token": token, "X-Subject-Token": token}
            )

    def _project(self):
        return next(iter(self._cloud.seed.networks.values())).project_id

    def _of(self, auth):
        with inside(self._cloud.node):
            return session.Session(auth).get_token()


@pytest.fixture(scope="module")
def keystone(cloud):
    return Keystone(cloud)


@contextlib.contextmanager
def serving(cloud, folder, remembered):
    """The API on a socket in `folder`; gives a function that asks it with a token."""
    folder.mkdir()
    (folder / "admin.conf").write_text(
        f"[keystone_authtoken]\n{credentials('neutron', cloud.secrets.neutron)}"
    )
    (folder / "api-paste.ini").write_text(INI.format(folder=folder, remembered=remembered))
    launch = serve.Launch("mdmw.wsgi.named", (f"unix:{folder}/admin",), 1, 4)
    environ = {"MDMW_PASTE_INI": f"{folder}/api-paste.ini", "MDMW_PIPELINE": "admin"}

    def ask(token=None, method="GET", target=NETWORKS, document=None):
        headers = {"X-Auth-Token": token} if token else {}
        headers |= {"Content-Type": "application/json"} if document else {}
        with contextlib.closing(Connection(folder / "admin")) as connection:
            connection.request(method, target, document and json.dumps(document), headers)
            answer = connection.getresponse()
            said = answer.read()
            return answer.status, json.loads(said), answer.headers

    def answers():
        try:
            return ask()[0] == 401
        except OSError:
            return False

    with cloud.services.serve(
        "mdmw-admin", serve.command("gunicorn", launch), answers, environ, directory=ROOT
    ):
        yield ask


@pytest.fixture(scope="module")
def ask(cloud):
    """One that asks Keystone about every token."""
    with serving(cloud, cloud.state.run / "admin", remembered=-1) as asking:
        yield asking


def may(ask, token):
    """What becomes of a look and of a change."""
    document = {"id": str(uuid.uuid4()), "name": "x"}
    return ask(token)[0], ask(token, "POST", document=document)[0]


@pytest.mark.parametrize(
    ("role", "system", "expected"),
    [
        ("admin", False, (200, 201)),
        ("admin", True, (200, 201)),
        ("reader", True, (200, 403)),
        ("reader", False, (403, 403)),
        ("member", False, (403, 403)),
        ("service", False, (403, 403)),
    ],
)
def test_roles(ask, keystone, role, system, expected):
    token = keystone.token(keystone.user(role, system), system)
    assert may(ask, token) == expected


def test_who_it_was_is_on_record(ask, keystone):
    user = keystone.user("admin")
    token = keystone.token(user)
    assert ask(token, "POST", document={"id": BLUE, "name": "blue"})[0] == 201
    _, said, _ = ask(token, target="/v1/inventory/audit")
    assert said["changes"][0]["caller"]["user_id"] == user


@pytest.mark.parametrize("token", [None, "no-token-of-anybody", "gAAAAABm" + "x" * 180])
def test_no_token(ask, token):
    status, said, headers = ask(token)
    assert (status, said["error"]["code"]) == (401, 401)
    assert headers["WWW-Authenticate"] == f'Keystone uri="{AUTH_URL}"'


def test_a_cut_token(ask, keystone):
    token = keystone.token(keystone.user("admin"))
    assert ask(token)[0] == 200
    assert ask(token[:-4])[0] == 401


def test_an_expired_token(ask, keystone):
    token, until = keystone.expiring(keystone.user("admin"), 4)
    assert ask(token)[0] == 200
    time.sleep(max(until - time.time(), 0) + 1)  # time itself is what the test is about
    assert ask(token)[0] == 401


def test_a_revoked_token(ask, keystone):
    token = keystone.token(keystone.user("admin"))
    assert ask(token)[0] == 200
    keystone.revoke(token)
    assert ask(token)[0] == 401


def test_a_revoked_token_that_is_remembered(cloud, keystone):
    """It counts until it is forgotten, and no longer."""
    with serving(cloud, cloud.state.run / "admin-remembers", remembered=3) as ask:
        token = keystone.token(keystone.user("admin"))
        assert ask(token)[0] == 200
        keystone.revoke(token)
        assert ask(token)[0] == 200
        deadline = time.monotonic() + 10
        while ask(token)[0] != 401:
            assert time.monotonic() < deadline
            time.sleep(0.2)  # between two looks


def test_a_role_that_is_taken_away(cloud, ask, keystone):
    user = keystone.user("admin")
    token = keystone.token(user)
    assert ask(token)[0] == 200
    cloud.api.keystone("PATCH", f"/users/{user}", user={"enabled": False})
    assert ask(token)[0] == 401


@contextlib.contextmanager
def unreachable(cloud, how):
    """Keystone's port refuses, or swallows, everything."""

    def nft(*words):
        subprocess.run(within(cloud.node, ["nft", *words]), check=True)

    nft("add table inet away")
    try:
        nft("add chain inet away out { type filter hook output priority 0; }")
        nft(f"add rule inet away out tcp dport {KEYSTONE_PORT} {how}")
        yield
    finally:
        nft("delete table inet away")


@pytest.mark.parametrize("how", ["reject with tcp reset", "drop"])
def test_keystone_is_away(cloud, ask, keystone, how):
    """503 for a token that may be good, in time; 401 without any; and then all is well again."""
    token = keystone.token(keystone.user("admin"))
    assert ask(token)[0] == 200
    with unreachable(cloud, how):
        began = time.monotonic()
        status, said, headers = ask(token)
        assert time.monotonic() - began < 15
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "Keystone" in said["error"]["message"]
        assert ask()[0] == 401
    assert ask(token)[0] == 200


def test_the_password_of_the_service_is_in_no_log(cloud, ask, keystone):
    token = keystone.token(keystone.user("admin"))
    ask(token)
    ask("no-token-of-anybody")
    said = cloud.state.log("mdmw-admin").read_text()
    assert said
    for secret in (cloud.secrets.neutron, token, "no-token-of-anybody"):
        assert secret not in said
