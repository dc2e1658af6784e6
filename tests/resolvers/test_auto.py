"""`resolver = auto`: which one it takes, from files as Neutron has them."""

import logging

import pytest
import rabbit as rabbits
from peers import PATIENCE

from mdmw.errors import ConfigError, Unavailable
from mdmw.filters import instance_resolve
from mdmw.records import Scope, Source
from mdmw.resolvers import contract
from mdmw.resolvers.combined import AutoResolver
from mdmw.resolvers.neutron import NeutronResolver
from mdmw.resolvers.neutron_rpc import NeutronRpcResolver
from mdmw.testing.resolvers import ADA, BLUE

ON_BLUE = Source("10.0.0.5", Scope("network", BLUE))

RPC = "[DEFAULT]\ntransport_url = {url}\n"
TODAY = (
    "[neutron]\nauth_type = password\nauth_url = http://127.0.0.1:{port}/v3\nusername = neutron\n"
    "password = secret\nproject_name = service\nuser_domain_name = Default\nproject_domain_name = Default\n"
)
OLD = (
    "[DEFAULT]\nauth_url = http://127.0.0.1:{port}/v2.0\nauth_region = RegionOne\n"
    "admin_tenant_name = service\nadmin_user = neutron\nadmin_password = secret\n"
)


@pytest.fixture
def made(tmp_path):
    """Makes the resolver of a section with such a configuration file, without the cache."""

    def make(text):
        path = tmp_path / "neutron.conf"
        path.write_text(text)
        kind, settings = instance_resolve.load_section({}, {"resolver": "auto", "config_file": str(path)})
        return kind(settings)

    return make


def test_is_found_by_its_entry_point():
    assert contract.find("auto") is AutoResolver


def test_the_options_of_both_each_once():
    names = [option.dest for option in AutoResolver.options]
    assert len(names) == len(set(names))
    both = [*NeutronResolver.options, *NeutronRpcResolver.options]
    assert set(names) == {option.dest for option in both}


@pytest.mark.parametrize("credentials", [TODAY, OLD])
@pytest.mark.parametrize("transport", ["", "transport_url = rabbit://neutron:secret@127.0.0.1/\n"])
def test_rest_when_there_are_credentials(made, caplog, credentials, transport):
    """With and without a transport_url; whom it asks is shown by who is out of reach."""
    caplog.set_level(logging.INFO)
    (port,) = rabbits.free_ports(1)
    text = credentials.format(port=port)
    resolver = made(text.replace("[DEFAULT]\n", f"[DEFAULT]\n{transport}") if transport else text)
    assert "auto: neutron (REST)" in caplog.text
    for ask in (lambda: resolver.resolve(ON_BLUE), lambda: resolver.snapshot(ON_BLUE.scope)):
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            ask()


def test_rpc_when_there_is_a_transport_url(made, caplog, rabbit, neutron_rpc):
    """Today's neutron.conf, as it is, with an answer over RabbitMQ."""
    caplog.set_level(logging.INFO)
    resolver = made(RPC.format(url=rabbit.url()))
    assert "auto: neutron-rpc" in caplog.text
    assert rabbit.password not in caplog.text
    try:
        assert resolver.resolve(ON_BLUE).id == ADA
        assert resolver.snapshot(ON_BLUE.scope).resolve(ON_BLUE).id == ADA
    finally:
        resolver._resolver._queries._rpc.close(PATIENCE)


def test_neither(made):
    """One line that says which options would do."""
    with pytest.raises(ConfigError, match=r"\[neutron\] group .*auth_type.*transport_url") as caught:
        made("[DEFAULT]\ncore_plugin = ml2\n")
    assert "\n" not in str(caught.value)


def test_credentials_that_are_not_whole_are_a_mistake(made):
    """They do not mean RPC."""
    with pytest.raises(ConfigError, match="admin_tenant_name"):
        made("[DEFAULT]\ntransport_url = rabbit://h/\nadmin_user = neutron\nadmin_password = secret\n")
