"""Where credentials come from, what they lead to, and the one line for those that cannot be used."""

import logging

import pytest
from certificates import Authority
from neutron_api import PASSWORD, REGION, Cloud, close_kept, config, make_resolver, settings_of

from mdmw.errors import ConfigError, Unavailable
from mdmw.options import load
from mdmw.records import Scope, Source
from mdmw.resolvers import contract
from mdmw.resolvers.keystone import has_credentials
from mdmw.resolvers.neutron import NeutronResolver
from mdmw.testing.resolvers import ADA as ADA_ID
from mdmw.testing.resolvers import BLUE

ADA = Source("10.0.0.5", Scope("network", BLUE))


@pytest.fixture
def finds(tmp_path):
    """Whether a resolver with these options of `[neutron]`, `[DEFAULT]` and its section finds Ada."""

    def check(group=None, default=None, **section):
        resolver = make_resolver(config(str(tmp_path / "mdmw.conf"), group or {}, default), **section)
        try:
            return resolver.resolve(ADA).id == ADA_ID
        finally:
            close_kept(resolver)

    return check


@pytest.fixture
def refusal(tmp_path):
    """The one line with which such options are refused."""

    def line(group=None, default=None, **section):
        path = config(str(tmp_path / "mdmw.conf"), group or {}, default)
        with pytest.raises(ConfigError) as error:
            make_resolver(path, **section)
        text = str(error.value)
        assert "\n" not in text
        assert "battery" not in text
        assert not error.value.__context__ or error.value.__suppress_context__
        return text

    return line


def old(cloud, **more):
    """The 2013 names of the first seed's metadata_agent.ini, for this cloud."""
    return {
        "auth_url": f"{cloud.auth_url}/v2.0",
        "auth_region": REGION,
        "admin_tenant_name": "service",
        "admin_user": "mdmw",
        "admin_password": PASSWORD,
    } | more


def test_is_found_by_its_entry_point():
    assert contract.find("neutron") is NeutronResolver


# --- the group of today -----------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "/", "/v3", "/v3/"])
@pytest.mark.parametrize("plugin", ["password", "v3password"])
def test_neutron_group_as_in_nova_conf(cloud, finds, plugin, end):
    """R-17: the address of Keystone may name the version of its API, and of two plugins each does."""
    assert finds(cloud.group(auth_type=plugin, auth_url=f"{cloud.auth_url}{end}"))


def test_auth_section(cloud, tmp_path):
    """Credentials in another group, for example that of Neutron's own service user."""
    path = config(
        str(tmp_path / "neutron.conf"), {"auth_section": "keystone_authtoken", "region_name": REGION}
    )
    with open(path, "a") as file:
        file.write("[keystone_authtoken]\n" + "".join(f"{k} = {v}\n" for k, v in cloud.group().items()))
    resolver = make_resolver(path)
    assert resolver.resolve(ADA).id == ADA_ID
    close_kept(resolver)
    assert has_credentials(settings_of(path))


def test_a_plugin_without_tokens(cloud, finds):
    """Any plugin of keystoneauth1: this one needs no Keystone."""
    assert finds({"auth_type": "none", "endpoint": str(cloud.neutron.address)})
    assert not cloud.keystone.requests


def test_a_plugin_without_tokens_that_is_refused(cloud, finds):
    """R-16: there is no other token to try again with."""
    cloud.revoked.add("notused")
    with pytest.raises(Unavailable, match=r"Neutron refuses the token that it was given \(401\)"):
        finds({"auth_type": "none", "endpoint": str(cloud.neutron.address)})
    assert len(cloud.queries) == 1


# --- the names of 2013 ------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "/", "/v2.0", "/v2.0/", "/v3"])
def test_old_names(cloud, finds, caplog, end):
    """Spec 5.1: /v2.0 too leads to version 3, with the default domain; a warning says what to write."""
    cloud.interfaces = {"admin"}  # the default of endpoint_type
    assert finds(default=old(cloud, auth_url=f"{cloud.auth_url}{end}"))
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "are old options; write a [neutron] group instead" in record.getMessage()
    assert "battery" not in caplog.text


def test_old_names_in_the_section(cloud, finds):
    """The section of the paste file wins over files; what is there is not substituted."""
    section = old(cloud, admin_password=PASSWORD.replace("$$", "$"))
    assert finds(default={"admin_user": "nobody"}, **section)


def test_old_endpoint_type_and_url(cloud, finds):
    """R-17: by interface, and overridden."""
    cloud.interfaces = {"public"}
    assert finds(default=old(cloud, endpoint_type="publicURL"))
    cloud.interfaces = set()
    assert finds(default=old(cloud, endpoint_url=f"{cloud.neutron.address}/v2.0"))


def test_old_noauth(cloud, finds):
    """Spec 5.1: auth_strategy = noauth, for tests."""
    assert finds(default={"auth_strategy": "noauth", "endpoint_url": str(cloud.neutron.address)})
    assert not cloud.keystone.requests


def test_the_group_wins_over_old_names(cloud, finds, caplog):
    """Spec 5.1: today's names first, and then there is nothing to warn of."""
    assert finds(cloud.group(), old(cloud, admin_user="nobody"))
    assert "old names" not in caplog.text


# --- whether there are any --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "default", "expected"),
    [
        ({}, {}, False),
        ({"auth_type": "password"}, {}, True),
        ({"auth_plugin": "password"}, {}, True),
        ({"auth_url": "http://k"}, {}, False),
        ({}, {"admin_user": "u"}, True),
        ({}, {"admin_password": "p"}, True),
        ({}, {"auth_url": "http://k", "auth_region": "r", "auth_ca_cert": "/ca"}, False),
        ({}, {"auth_strategy": "noauth"}, False),
        ({}, {"auth_strategy": "noauth", "endpoint_url": "http://n"}, True),
    ],
)
def test_has_credentials(tmp_path, group, default, expected):
    """What resolver = auto asks; halves of credentials count, so that they are complained of."""
    path = config(str(tmp_path / "mdmw.conf"), group, default)
    assert has_credentials(settings_of(path)) is expected


def test_has_credentials_without_any_file():
    assert has_credentials(settings_of(None)) is False


# --- refused ----------------------------------------------------------------------------------


def test_none_at_all(refusal):
    """Both ways are named."""
    assert refusal() == (
        "instance-resolve: no credentials for Neutron: give a file with a [neutron] group (auth_type, "
        "auth_url, username, password, ...) in config_file, or the older admin_user, admin_password, "
        "admin_tenant_name and auth_url"
    )


@pytest.mark.parametrize("missing", ["auth_url", "admin_tenant_name", "admin_user", "admin_password"])
def test_half_of_the_old_names(cloud, refusal, missing):
    assert refusal(default={k: v for k, v in old(cloud).items() if k != missing}) == (
        f"instance-resolve: option '{missing}': is needed; auth_url, admin_user, admin_password, "
        "admin_tenant_name go together"
    )


@pytest.mark.parametrize(
    ("group", "problem"),
    [
        ({"auth_type": "magic"}, "[neutron]: The plugin magic could not be found"),
        ({"auth_url": ""}, "[neutron]: option 'auth_url' is required"),
        ({"password": ""}, "[neutron]: option 'password' is required"),
        ({"password": "battery$staple"}, "[neutron]: a value cannot be read; a dollar sign is written $$"),
        ({"valid_interfaces": "outernal"}, "[neutron]: 'outernal' is not a valid value for valid_interfaces"),
        ({"timeout": "soon"}, "[neutron]: "),
        ({"timeout": "-1"}, "[neutron]: option 'timeout': "),
        ({"auth_url": "http://u:battery@k:5000"}, "[neutron]: option 'auth_url': must be an http:// or "),
        ({"auth_url": "keystone:5000"}, "[neutron]: option 'auth_url': must be an http:// or "),
        ({"auth_url": "http://[::1"}, "[neutron]: option 'auth_url': must be an http:// or "),
        (
            {"endpoint_override": "http://n:0"},
            "[neutron]: option 'endpoint_override': must be an http:// or ",
        ),
        ({"cafile": "/nowhere/ca.pem"}, "a certificate cannot be used: [Errno 2]"),
        ({"certfile": "/nowhere/cert.pem"}, "a certificate cannot be used: [Errno 2]"),
    ],
)
def test_a_group_that_cannot_be_used(cloud, refusal, group, problem):
    """Each in one line, without secrets."""
    assert refusal(cloud.group(**group)).startswith(f"instance-resolve: {problem}")


def test_old_names_that_cannot_be_used(cloud, refusal):
    """Each in one line, without secrets."""
    assert "option 'auth_url': must be an http" in refusal(default=old(cloud, auth_url="http://u:battery@k"))
    assert "option 'endpoint_url': must be an http" in refusal(default=old(cloud, endpoint_url="neutron"))
    assert "a certificate cannot be used" in refusal(default=old(cloud, auth_ca_cert="/nowhere"))
    assert "'neutron_timeout': 5 is more than neutron_total_timeout" in refusal(
        cloud.group(), neutron_total_timeout="4"
    )


def test_secrets_are_shown_to_nobody(cloud, tmp_path):
    """The password is declared as a secret, and the settings show no values."""
    settings = load("instance-resolve", NeutronResolver.options, {}, old(cloud))
    assert "battery" not in repr(settings)
    assert [option.dest for option in NeutronResolver.options if option.secret] == ["admin_password"]


# --- how it connects --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


def test_tls_by_cafile(peers, finds, authority):
    """Keystone and Neutron both by TLS, verified by the CA of the group."""
    cloud = Cloud(peers, tls=authority.server("127.0.0.1"))
    assert finds(cloud.group(cafile=authority.file))
    assert finds(cloud.group(insecure="true"))
    assert finds(default=old(cloud, auth_ca_cert=authority.file))
    assert finds(default=old(cloud, auth_insecure="true"))


def test_tls_with_a_client_certificate(peers, finds, authority):
    """certfile and keyfile."""
    cloud = Cloud(peers, tls=authority.server("127.0.0.1", clients=authority.file))
    cert, key = authority.issue("mdmw")
    assert finds(cloud.group(cafile=authority.file, certfile=cert, keyfile=key))
    with pytest.raises(Unavailable, match="Keystone: "):
        finds(cloud.group(cafile=authority.file))


@pytest.mark.parametrize(("name", "expired"), [("127.0.0.2", False), ("127.0.0.1", True)])
def test_tls_that_is_not_to_be_trusted(peers, finds, authority, name, expired):
    """A wrong name, and a certificate that is over; then nothing is sent."""
    cloud = Cloud(peers, tls=authority.server(name, expired))
    with pytest.raises(
        Unavailable, match=r"Keystone: no connection to https://.*: .*CERTIFICATE_VERIFY_FAILED"
    ):
        finds(cloud.group(cafile=authority.file))
    assert not cloud.keystone.requests


def test_nothing_is_taken_from_the_environment(cloud, finds, peers, tmp_path, monkeypatch):
    """Neither proxies nor .netrc: both would carry tokens elsewhere."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password battery\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, str(peers.refusing()))
    assert finds(cloud.group())
    for request in (*cloud.keystone.requests, *cloud.neutron.requests):
        assert request.value("Authorization") is None
