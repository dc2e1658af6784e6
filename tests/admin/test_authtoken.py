"""authtoken: tokens good and bad, Keystone in all its moods, and what a section may say."""

import json
import logging
import re
import socket
from pathlib import Path

import pytest
import requests
from certificates import Authority
from guest import call
from keystone import SERVICE_PASSWORD, Keystone
from keystonemiddleware import auth_token
from local import host
from peers import PATIENCE, response

from mdmw.admin import authtoken
from mdmw.admin.app import app_factory
from mdmw.admin.authtoken import filter_factory
from mdmw.errors import ConfigError

NETWORKS, PURGE = "/v1/networks", "/v1/cache:purge"
FORGED = [
    *[("X-Roles", "admin"), ("X-Role", "admin"), ("X_Roles", "admin"), ("X-Identity-Status", "Confirmed")],
    *[("OpenStack-System-Scope", "all"), ("X-User-Name", "root"), ("X-Is-Admin-Project", "True")],
]


@pytest.fixture
def keystone(peers):
    made = Keystone()
    made.serve(peers)
    return made


@pytest.fixture
def app(keystone, tmp_path):
    """The admin API behind authtoken, which remembers nothing."""
    return behind(keystone.conf(tmp_path / "admin.conf"), tmp_path, token_cache_time="-1")


def behind(conf, folder, **options):
    admin = app_factory({}, introspect_dir=str(folder / "processes"))
    return filter_factory({}, config_file=conf, **options)(admin)


def ask(app, token=None, method="GET", target=NETWORKS, headers=(), body=b""):
    """Status and JSON."""
    given = [*headers, *([("X-Auth-Token", token)] if token else [])]
    given += [("Content-Type", "application/json")] if body else []
    reply = call(app, method, target, given, body)
    said = json.loads(reply.body)
    if reply.status >= 400:
        assert set(said["error"]) == {"code", "title", "message", "request_id"}
    return reply


def may(app, token):
    """Whether a token lets look, and change."""
    looks, changes = ask(app, token), ask(app, token, "POST", PURGE, body=b'{"all": true}')
    return looks.status, changes.status


def test_roles(app, keystone):
    """Every role, of a project and of the whole system. A reader of one project is a tenant."""
    matrix = {
        ("admin", False): (200, 200),
        ("admin", True): (200, 200),
        ("reader", True): (200, 403),
        ("reader", False): (403, 403),
        ("member", True): (403, 403),
        ("member", False): (403, 403),
        ("Admins", False): (403, 403),
        ("service", False): (403, 403),
    }
    found = {
        (role, system): may(app, keystone.issue(f"{role}-{system}", role, system=system))
        for role, system in matrix
    }
    assert found == matrix


def test_several_roles(app, keystone):
    assert may(app, keystone.issue("t", "member", "reader", "admin")) == (200, 200)
    assert may(app, keystone.issue("t2", system=True)) == (403, 403)


@pytest.mark.parametrize("token", [None, "unknown", "x" * 5000, "../../etc/passwd", "a b", "\xe9"])
def test_no_good_token(app, keystone, token):
    reply = ask(app, token)
    assert reply.status == 401
    assert reply.value("WWW-Authenticate") == f'Keystone uri="{keystone.url}/v3"'


def test_expired(app, keystone):
    keystone.issue("old", "admin", life=-1)
    assert ask(app, "old").status == 401


def test_revoked(app, keystone):
    keystone.issue("good", "admin")
    assert ask(app, "good").status == 200
    del keystone.tokens["good"]
    assert ask(app, "good").status == 401


def test_a_token_that_is_remembered_outlives_its_revocation(keystone, tmp_path):
    """By token_cache_time, 30 s unless told otherwise; the documentation says so."""
    app = behind(keystone.conf(tmp_path / "admin.conf"), tmp_path)
    keystone.issue("good", "admin")
    assert ask(app, "good").status == 200
    asked = keystone.validations
    del keystone.tokens["good"]
    assert ask(app, "good").status == 200
    assert keystone.validations == asked
    assert app._conf.get("token_cache_time") == 30


def test_forged_headers_are_no_identity(app, keystone):
    keystone.issue("tenant", "member", "reader")
    assert ask(app, "tenant", headers=FORGED).status == 403
    assert ask(app, headers=FORGED).status == 401


def test_a_service_token_does_not_lend_its_scope(app, keystone):
    """The middleware writes one header for the scope of both."""
    keystone.issue("tenant", "reader")
    keystone.issue("powerful", "service", "admin", system=True)
    assert ask(app, "tenant", headers=[("X-Service-Token", "powerful")]).status == 403


def test_a_bad_service_token_is_refused(app, keystone):
    keystone.issue("good", "admin")
    keystone.issue("tenant", "member")
    for service in ("unknown", "tenant"):
        assert ask(app, "good", headers=[("X-Service-Token", service)]).status == 401


FAULTS = {
    "hangs up": lambda c: c.reset(),
    "500": lambda c: c.send(response("500 Oops", b"<html>")),
    "503": lambda c: c.send(response("503 Busy", b"{}")),
    "no JSON": lambda c: c.send(response("200 OK", b"<html>", "Content-Type: application/json")),
    "empty JSON": lambda c: c.send(response("200 OK", b"{}", "Content-Type: application/json")),
    "other JSON": lambda c: c.send(response("200 OK", b'{"token": []}', "Content-Type: application/json")),
    "no HTTP": lambda c: c.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("known", [False, True], ids=["from the start", "later"])
def test_a_keystone_that_cannot_be_asked_is_503(app, keystone, fault, known):
    """Never 401: the token may be good."""
    keystone.issue("good", "admin")
    if known:
        assert ask(app, "good").status == 200
    keystone.faults = [FAULTS[fault]]
    reply = ask(app, "good")
    assert (reply.status, reply.value("Retry-After")) == (503, "1")
    keystone.faults = []
    assert ask(app, "good").status == 200


def test_nobody_listens(peers, tmp_path):
    keystone = Keystone()
    keystone.url = str(peers.refusing())
    app = behind(keystone.conf(tmp_path / "admin.conf"), tmp_path)
    assert ask(app, "good").status == 503
    assert ask(app).status == 401  # nobody has to be asked


def test_a_keystone_that_says_nothing_is_503_in_time(keystone, tmp_path):
    app = behind(keystone.conf(tmp_path / "admin.conf"), tmp_path, http_connect_timeout="1")
    keystone.faults = [lambda conversation: conversation.hold()]
    assert ask(app, "good").status == 503


def test_our_own_password_is_wrong(keystone, tmp_path, caplog):
    """Our fault, so 503; and the password is in no log."""
    caplog.set_level(logging.DEBUG)
    app = behind(keystone.conf(tmp_path / "admin.conf", password="hunter2"), tmp_path)
    keystone.issue("good-token", "admin")
    assert ask(app, "good-token").status == 503
    assert not [record for record in caplog.records if "hunter2" in record.getMessage()]


def test_no_token_is_in_the_log(app, keystone, caplog):
    caplog.set_level(logging.DEBUG)
    for token in (keystone.issue("a-good-secret", "admin"), "a-bad-secret"):
        ask(app, token)
    assert caplog.records
    logged = "\n".join(record.getMessage() for record in caplog.records)
    for secret in ("a-good-secret", "a-bad-secret", SERVICE_PASSWORD, "service-1"):
        assert secret not in logged


def test_a_real_server_with_tls(keystone, tmp_path):
    """The shipped pipeline, as doc/admin.rst starts it."""
    keystone.issue("good", "admin")
    with host() as made, socket.create_server(("127.0.0.1", 0)) as reserved:
        keystone.conf(made.folder / "admin.conf")
        authority = Authority(made.folder, "admin")
        certificate, key = authority.issue("127.0.0.1")
        port = reserved.getsockname()[1]
        reserved.close()
        words = ["--certfile", certificate, "--keyfile", key]
        made.serve("admin", binds=[f"127.0.0.1:{port}"], words=words, ca=authority.file)
        for token, status in (("good", 200), ("bad", 401)):
            answer = requests.get(
                f"https://127.0.0.1:{port}/v1/networks",
                headers={"X-Auth-Token": token},
                verify=authority.file,
                timeout=PATIENCE,
            )
            assert answer.status_code == status


# --- the section ------------------------------------------------------------------------

GOOD = {
    "auth_type": "password",
    "auth_url": "http://127.0.0.1:1/v3",
    "username": "mdmw",
    "password": "hunter2",
    "user_domain_name": "Default",
    "project_name": "service",
    "project_domain_name": "Default",
}
GOOD_PASSWORD = set(GOOD) - {"auth_type"}


def test_a_section_without_files():
    filter_factory({}, **GOOD)


def test_the_section_wins_over_the_file(keystone, tmp_path):
    conf = keystone.conf(tmp_path / "admin.conf", password="wrong")
    app = behind(conf, tmp_path, password=SERVICE_PASSWORD)
    assert ask(app, keystone.issue("good", "admin")).status == 200


def test_credentials_of_another_group(keystone, tmp_path):
    conf = tmp_path / "admin.conf"
    keystone.conf(conf)
    text = conf.read_text().replace("[keystone_authtoken]", "[keystone_authtoken]\nauth_section = own\n[own]")
    conf.write_text(text)
    assert ask(behind(str(conf), tmp_path), keystone.issue("good", "admin")).status == 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auth_type": None}, "'auth_type' is required"),
        ({"auth_type": "telepathy"}, "telepathy"),
        ({"auth_type": "none", **dict.fromkeys(GOOD_PASSWORD)}, "'www_authenticate_uri' is required"),
        ({"auth_url": None}, "'auth_url' is required"),
        ({"password": None}, "'password' is required"),
        ({"colour": "blue"}, "unknown option 'colour'"),
        ({"delay_auth_decision": "true"}, "'delay_auth_decision': only false"),
        ({"token_cache_time": "soon"}, "'token_cache_time'"),
        ({"memcached_servers": "127.0.0.1:11211"}, "must be encrypted"),
        ({"memcached_servers": "127.0.0.1:11211", "memcache_security_strategy": "MAC"}, "must be encrypted"),
        (
            {"memcached_servers": "127.0.0.1:11211", "memcache_security_strategy": "ENCRYPT"},
            "must be encrypted",
        ),
        ({"config_file": "/nowhere/admin.conf"}, "/nowhere/admin.conf"),
    ],
)
def test_a_section_that_is_refused(change, said):
    options = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises(ConfigError) as error:
        filter_factory({}, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)


def test_an_encrypted_cache_is_good():
    encrypted = {"memcache_security_strategy": "ENCRYPT", "memcache_secret_key": "k"}
    filter_factory({}, **GOOD, memcached_servers="127.0.0.1:11211", **encrypted)


def test_only_public_names_of_the_middleware_are_used():
    """What mdmw relies on: a constructor, one method, one attribute, one documented environ key."""
    source = Path(authtoken.__file__).read_text()
    private = re.findall(r"(?:self|super\(\)|auth_token|request)\._[a-z]\w*", source)
    assert private == []
    assert callable(auth_token.AuthProtocol.process_request)
    assert "keystone.token_auth" in auth_token.__doc__
