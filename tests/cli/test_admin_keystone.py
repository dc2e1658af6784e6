"""The commands of operators with a token of Keystone, by clouds.yaml and by OS_*, at a real server."""

import json
import os
import socket
import sys

import pytest
import yaml
from admin.keystone import Keystone
from admin.local import host
from peers import peers_in, response

from mdmw.cli import admin_api

# What openstacksdk says of itself, whatever it is asked for.
pytestmark = pytest.mark.filterwarnings("ignore:Support for InfluxDB")
PASSWORD = "the password of ada"


class Cloud(Keystone):
    """It knows ada, an administrator, and in its catalog is the admin API, if `admin_url` is known."""

    admin_url = None

    def _authenticate(self, wanted):
        user = wanted["auth"]["identity"]["password"]["user"]
        if user["name"] != "ada":
            return super()._authenticate(wanted)
        if user["password"] != PASSWORD:
            return response("401 Unauthorized", b'{"error": {"code": 401, "message": "no such user"}}')
        token = self.issue("the token of ada", "admin")
        body = json.dumps({"token": self.tokens[token] | {"catalog": self._catalog()}}).encode()
        return response("201 Created", body, f"X-Subject-Token: {token}", "Content-Type: application/json")

    def _catalog(self):
        endpoint = {"interface": "public", "region": "R", "region_id": "R", "id": "a", "url": self.admin_url}
        service = {"id": "m", "type": "mdmw", "name": "mdmw", "endpoints": [endpoint]}
        return [*super()._catalog(), *([service] if self.admin_url else [])]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A Keystone, and the address of an admin API that trusts it."""
    with peers_in(str(tmp_path_factory.mktemp("peers"))) as peers, host() as made:
        keystone = Cloud()
        keystone.serve(peers)
        keystone.conf(made.folder / "admin.conf")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        made.serve("admin", binds=[f"127.0.0.1:{port}"])
        yield keystone, f"http://127.0.0.1:{port}"


@pytest.fixture
def cloud(site, monkeypatch, tmp_path):
    """That Keystone with nothing said to the commands; `url` is where the API is."""
    keystone, keystone.api = site[0], site[1]
    keystone.admin_url = keystone.api
    for name in os.environ:
        if name.startswith("OS_") or name == admin_api.URL_VARIABLE:
            monkeypatch.delenv(name)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    return keystone


@pytest.fixture
def clouds_yaml(cloud, tmp_path):
    auth = {
        "auth_url": f"{cloud.url}/v3",
        "username": "ada",
        "password": PASSWORD,
        "project_name": "x",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }

    def write(**changes):
        changed = {name: value for name, value in (auth | changes).items() if value is not None}
        text = yaml.safe_dump({"clouds": {"here": {"auth": changed, "region_name": "R"}}})
        (tmp_path / "clouds.yaml").write_text(text)

    write()
    return write


def test_clouds_yaml_and_the_catalog(mdmw, clouds_yaml):
    assert mdmw("networks", "--os-cloud", "here", "--json")[0] == 0
    status, out, err = mdmw("top", "--os-cloud", "here", "--once")
    assert (status, err) == (0, "")
    assert "0 networks" in out


def test_os_cloud_of_the_environment(mdmw, clouds_yaml, monkeypatch):
    monkeypatch.setenv("OS_CLOUD", "here")
    assert mdmw("purge", "--all") == (0, "PIPELINE  PID  FORGOTTEN\n--------  ---  ---------\n", "")


def test_os_variables_and_a_url(mdmw, cloud, monkeypatch):
    cloud.admin_url = None
    for name, value in {
        "AUTH_URL": f"{cloud.url}/v3",
        "USERNAME": "ada",
        "PASSWORD": PASSWORD,
        "PROJECT_NAME": "x",
        "USER_DOMAIN_NAME": "Default",
        "PROJECT_DOMAIN_NAME": "Default",
    }.items():
        monkeypatch.setenv(f"OS_{name}", value)
    status, _, err = mdmw("networks")
    assert (status, err) == (
        2,
        "mdmw: the catalog of Keystone has no service mdmw; give --url, or --socket\n",
    )
    assert mdmw("networks", "--url", cloud.api)[0] == 0
    monkeypatch.setenv(admin_api.URL_VARIABLE, cloud.api)
    assert mdmw("networks")[0] == 0
    assert mdmw("networks", "x")[0] == 1


def test_a_wrong_password_is_one_line_without_it(mdmw, clouds_yaml):
    clouds_yaml(password="hunter2")
    status, out, err = mdmw("networks", "--os-cloud", "here")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("mdmw: Keystone gives no token")
    assert "hunter2" not in err


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"auth_url": "http://127.0.0.1:1/v3"}, 1, "127.0.0.1"),
        ({"password": None}, 2, "OS_PASSWORD"),
        ({"auth_url": None}, 2, "auth_url"),
    ],
)
def test_a_cloud_that_cannot_be_asked(mdmw, clouds_yaml, changes, status, said):
    clouds_yaml(**changes)
    answered, out, err = mdmw("networks", "--os-cloud", "here")
    assert (answered, out, err.count("\n")) == (status, "", 1)
    assert said in err
    assert PASSWORD not in err


def test_an_unknown_cloud(mdmw, clouds_yaml):
    status, _, err = mdmw("networks", "--os-cloud", "elsewhere")
    assert (status, "elsewhere" in err, err.count("\n")) == (2, True, 1)


def test_an_api_that_is_not_there(mdmw, clouds_yaml, peers):
    status, _, err = mdmw("networks", "--os-cloud", "here", "--url", str(peers.refusing()))
    assert (status, err.count("\n")) == (1, 1)


def test_without_the_library_it_says_what_to_install(mdmw, cloud, monkeypatch):
    monkeypatch.setitem(sys.modules, "mdmw.cli.admin_keystone", None)
    status, _, err = mdmw("networks", "--os-cloud", "here")
    assert (status, "install mdmw[cli], or use --socket" in err) == (2, True)
