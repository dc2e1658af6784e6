"""The RPC resolver: what it asks, and each fault that RabbitMQ and Neutron can have; over a real RabbitMQ."""

import gc
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import neutron_rpc_server
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neutron_rpc_server import resolver_at, resolving
from peers import PATIENCE

from mdmw.errors import ConfigError, NotIdentified, Unavailable
from mdmw.filters import instance_resolve
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers import contract, neutron_rpc
from mdmw.resolvers.contract import ROUTER_INTERFACE_OWNERS
from mdmw.resolvers.neutron_rpc import NeutronRpcResolver, NoAnswer, RpcPorts
from mdmw.testing import resolvers
from mdmw.testing.resolvers import ADA, BLUE, ROUTER, WORLD

ON_BLUE = Source("10.0.0.5", Scope("network", BLUE))
# A connection that breaks under kombu is left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

#: Seconds that a call may take beyond its timeout, on a busy machine.
LENIENCY = 2.0


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """What kombu left is collected here, not in the tests of others."""
    yield
    gc.collect()


@pytest.fixture
def plugin(neutron_rpc):
    """Neutron, in a sane state."""
    neutron_rpc.calls.clear()
    yield neutron_rpc
    neutron_rpc.instead = None


@pytest.fixture
def resolver(rabbit, relay, plugin):
    """A resolver that has worked once, by way of the relay; a test that cuts it, mends it."""
    with resolving(rabbit.url(relay.port), timeout=1.0) as resolver:
        assert resolver.resolve(ON_BLUE).id == ADA
        plugin.calls.clear()
        yield resolver


def unavailable(resolver, timeout, source=ON_BLUE):
    """The text of the fault, which must come in time."""
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        resolver.resolve(source)
    assert time.monotonic() - began < timeout + LENIENCY
    return str(caught.value)


def works_again(resolver):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return resolver.resolve(ON_BLUE).id == ADA
        except Unavailable:
            assert time.monotonic() < deadline, "it does not recover"


# --- what is asked ----------------------------------------------------------------------


def test_is_found_by_its_entry_point():
    assert contract.find("neutron-rpc") is NeutronRpcResolver


def test_r2_r3_the_calls_of_the_agent(resolver, plugin):
    """R-2, R-3: the filters that neutron-metadata-agent sends, and nothing else."""
    resolver.resolve(ON_BLUE)
    resolver.resolve(Source("fe80::f816:3eff:fe00:1", Scope("network", BLUE)))
    resolver.resolve(Source("10.1.0.6", Scope("router", ROUTER)))
    assert [filters for _, filters in plugin.calls] == [
        {"network_id": [BLUE], "fixed_ips": {"ip_address": ["10.0.0.5"]}},
        {"network_id": [BLUE], "mac_address": ["fa:16:3e:00:00:01"]},
        {"device_id": [ROUTER], "device_owner": list(ROUTER_INTERFACE_OWNERS)},
        {
            "network_id": [resolvers.NORTH, resolvers.SOUTH],
            "fixed_ips": {"ip_address": ["10.1.0.6"]},
        },
    ]


def test_the_context_is_that_of_an_administrator(resolver, plugin):
    """Neutron shows the ports of all projects to nobody else."""
    resolver.resolve(ON_BLUE)
    ((context, _),) = plugin.calls
    assert context["is_admin"] is True
    assert "admin" in context["roles"]


def test_r1_ports_of_other_networks_do_not_count(resolver, plugin):
    """R-1: not even when Neutron sends them unasked."""
    green = next(port for port in WORLD.ports if port.network_id == resolvers.GREEN)
    plugin.instead = lambda filters: [neutron_rpc_server.described(green)]
    with pytest.raises(NotIdentified):
        resolver.resolve(ON_BLUE)


def test_a_snapshot_is_one_call(resolver, plugin):
    """R-1: all ports of the network; by router the interfaces first."""
    snapshot = resolver.snapshot(Scope("network", BLUE))
    assert snapshot.resolve(ON_BLUE).id == ADA
    assert [filters for _, filters in plugin.calls] == [{"network_id": [BLUE]}]
    assert {port.network_id for port in snapshot.ports} == {BLUE}
    snapshot = resolver.snapshot(Scope("router", ROUTER))
    assert snapshot.resolve(Source("10.1.0.5", Scope("router", ROUTER))).id == resolvers.CID


def test_a_snapshot_that_takes_too_long_is_none_and_not_tried_again(resolver, plugin):
    """The network is too large; its ports are then asked for one by one."""
    go_on = threading.Event()
    plugin.instead = lambda filters: (len(filters) > 1 or go_on.wait(PATIENCE)) and plugin.answer(filters)
    assert resolver.snapshot(Scope("network", BLUE)) is None
    began = time.monotonic()
    assert resolver.snapshot(Scope("network", BLUE)) is None
    assert time.monotonic() - began < 0.5
    assert resolver.resolve(ON_BLUE).id == ADA
    go_on.set()
    assert resolver.resolve(ON_BLUE).id == ADA


# --- RabbitMQ ---------------------------------------------------------------------------


def test_rabbitmq_is_down_at_the_start_and_comes_up(rabbit, relay, plugin):
    """1.6: Unavailable, at once and with the reason, as long as it is down."""
    relay.down()
    with resolving(rabbit.url(relay.port)) as resolver:
        for _ in range(2):
            text = unavailable(resolver, timeout=0)
            assert f"rabbit://127.0.0.1:{relay.port}: get_ports" in text
            assert "refused" in text.lower()
        relay.up()
        assert works_again(resolver)


def test_rabbitmq_dies_in_the_middle_of_a_call_and_returns(resolver, rabbit, plugin):
    """1.6: the queue for answers died with it, and later it works without a restart of ours."""
    asked, go_on = threading.Event(), threading.Event()

    def wait(filters):
        asked.set()
        go_on.wait(PATIENCE)
        return []

    plugin.instead = wait
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(unavailable, resolver, 1.0)
        assert asked.wait(PATIENCE)
        rabbit.kill()
        assert "no answer within 1 s" in waiting.result(PATIENCE)
    go_on.set()
    plugin.instead = None
    unavailable(resolver, 1.0)
    rabbit.start()
    assert works_again(resolver)


def test_a_connection_that_was_cut_while_idle(rabbit, relay, plugin):
    """The first guest after it is served, if a second later."""
    with resolving(rabbit.url(relay.port)) as resolver:
        resolver.resolve(ON_BLUE)
        relay.down()
        relay.up()
        assert resolver.resolve(ON_BLUE).id == ADA


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_the_way_to_rabbitmq_swallows_everything(rabbit, relay, plugin, when):
    """1.6: nothing refuses, nothing answers; the call still ends in its time."""
    with resolving(rabbit.url(relay.port), timeout=1.0) as resolver:
        if when == "later":
            resolver.resolve(ON_BLUE)
        relay.silence()
        assert "no answer within 1 s" in unavailable(resolver, 1.0)
        relay.down()
        relay.up()
        assert works_again(resolver)


def test_wrong_password(rabbit, caplog):
    """1.6: the reason is said, the password is not, not even at DEBUG."""
    caplog.set_level(logging.DEBUG)
    password = "wrong-and-never-shown"
    text = unavailable(resolver_at(rabbit.url(password=password)), timeout=0)
    assert "ACCESS_REFUSED" in text
    assert password not in text + caplog.text


def test_the_password_is_in_no_log(rabbit, relay, plugin, caplog):
    """Neither while all is well, nor when RabbitMQ goes away."""
    caplog.set_level(logging.DEBUG)
    with resolving(rabbit.url(relay.port), timeout=1.0) as resolver:
        resolver.resolve(ON_BLUE)
        relay.down()
        unavailable(resolver, 1.0)
        relay.up()
        works_again(resolver)
    assert "oslo_messaging" in {record.name.partition(".")[0] for record in caplog.records}
    assert rabbit.password not in caplog.text + repr(resolver)


def test_an_outage_keeps_no_more_threads_than_calls_that_may_be_under_way(resolver, relay):
    """200 guests that ask while nothing answers: each has its answer in time."""
    relay.silence()
    before = threading.active_count()
    with ThreadPoolExecutor(200) as pool:
        began = time.monotonic()
        texts = list(pool.map(lambda _: unavailable(resolver, 1.0), range(200)))
        assert time.monotonic() - began < 1.0 + 2 * LENIENCY
        assert threading.active_count() - before <= 200 + 30
    assert len(texts) == 200
    relay.down()
    relay.up()
    assert works_again(resolver)


def test_no_more_threads_are_to_be_had(resolver):
    """1.6: and nothing is lost for later, when there are."""
    usual = threading.stack_size(1 << 46)
    try:
        for _ in range(20):
            assert "thread" in unavailable(resolver, 0)
    finally:
        threading.stack_size(usual)
    assert resolver.resolve(ON_BLUE).id == ADA


# --- Neutron ----------------------------------------------------------------------------


def test_neutron_is_silent(resolver, plugin):
    """1.6: a server that takes the call and does not answer; the next one is answered."""
    go_on = threading.Event()
    plugin.instead = lambda filters: go_on.wait(PATIENCE)
    assert "get_ports: no answer within 1 s" in unavailable(resolver, 1.0)
    go_on.set()
    plugin.instead = None
    assert resolver.resolve(ON_BLUE).id == ADA


class DBConnectionError(Exception):
    """As of oslo.db: neither known to mdmw nor to Python."""


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (DBConnectionError("mysql://neutron:secret@db"), "it raised DBConnectionError"),
        (ValueError("no good"), "ValueError: no good"),
        (SystemError("no good"), "SystemError: no good"),
    ],
)
def test_neutron_raises(resolver, plugin, raised, said):
    """1.6: of an exception that is not Python's own only the name is said."""

    def fail(filters):
        raise raised

    plugin.instead = fail
    text = unavailable(resolver, 1.0)
    assert text.endswith(said)
    assert "Traceback" not in text
    plugin.instead = None
    assert resolver.resolve(ON_BLUE).id == ADA


def test_nobody_serves_the_topic(rabbit):
    """1.6: RabbitMQ is there and Neutron is not."""
    with resolving(rabbit.url(), timeout=0.5) as resolver:
        resolver._queries._rpc._exchange = "elsewhere"
        assert "no answer within 0.5 s" in unavailable(resolver, 0.5)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_whole = neutron_rpc_server.described(WORLD.ports[0])
_changed = st.dictionaries(st.sampled_from(sorted(_whole)), _json, max_size=3).map(lambda new: _whole | new)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=_json | st.lists(_changed | _json, max_size=3))
def test_garbage_identifies_nobody(resolver, plugin, answer):
    """1.6, R-6: whatever comes, it is the port that was asked for, nobody, or unavailable."""
    plugin.instead = lambda filters: answer
    try:
        found = resolver.resolve(ON_BLUE)
    except (NotIdentified, Unavailable):
        return
    candidates = [port for port in answer if isinstance(port, dict) and port.get("network_id") == BLUE]
    assert any(
        found.id == port.get("device_id")
        and any(fixed["ip_address"] == ON_BLUE.address for fixed in port["fixed_ips"])
        for port in candidates
    )
    assert isinstance(found, Instance)


# --- configuration ----------------------------------------------------------------------


def section(tmp_path, text):
    """The resolver of a section with such a configuration file, without the cache."""
    path = tmp_path / "neutron.conf"
    path.write_text(text)
    given = {"resolver": "neutron-rpc", "config_file": str(path)}
    kind, settings = instance_resolve.load_section({}, given)
    return kind(settings)


def test_neutron_conf_as_it_is_is_enough(rabbit, plugin, tmp_path):
    """5.1: [DEFAULT] transport_url, among what else is there."""
    text = f"[DEFAULT]\ncore_plugin = ml2\ntransport_url = {rabbit.url()}\n[agent]\nroot_helper = sudo\n"
    resolver = section(tmp_path, text)
    try:
        assert resolver.resolve(ON_BLUE).id == ADA
    finally:
        resolver._queries._rpc.close(PATIENCE)


def test_no_transport_url(tmp_path):
    with pytest.raises(ConfigError, match="option 'transport_url': is required"):
        section(tmp_path, "[DEFAULT]\n")


@pytest.mark.parametrize(
    "url",
    [
        "neutron:secret@rabbit",
        "rabit://neutron:secret@rabbit/",
        "rabbit://neutron:sec/ret@rabbit:5672/",
        "rabbit://neutron:secret@rabbit:port/",
        "rabbit://neutron:secret@rabbit/?no_such_option=1",
    ],
)
def test_a_transport_url_that_cannot_be_used(tmp_path, url):
    """One line at load, without the password."""
    with pytest.raises(ConfigError, match=r"'transport_url': not a URL such as") as caught:
        section(tmp_path, f"[DEFAULT]\ntransport_url = {url}\n")
    assert "sec" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_of_oslo_messaging_that_cannot_be_used(tmp_path):
    text = "[DEFAULT]\ntransport_url = rabbit://h/\n[oslo_messaging_rabbit]\nheartbeat_rate = often\n"
    with pytest.raises(ConfigError, match=r"\[oslo_messaging_rabbit\]: option 'heartbeat_rate': .*often"):
        section(tmp_path, text)


def test_without_oslo_messaging(monkeypatch):
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "oslo_messaging", None)
    with pytest.raises(ConfigError, match=r"needs oslo.messaging, the extra mdmw\[rpc\]"):
        resolver_at("rabbit://neutron:secret@rabbit/")


class Silent:
    """Answers nothing."""

    def call(self, *arguments, **fields):
        raise NoAnswer("no answer")


def test_networks_that_could_not_be_listed_are_forgotten_after_a_minute(monkeypatch):
    """A pause for each network that once was too large would stay in memory for ever."""
    now = [0.0]
    monkeypatch.setattr(neutron_rpc.time, "monotonic", lambda: now[0])
    ports = RpcPorts(Silent(), 5.0)
    for number in range(300):
        assert ports.everything([f"network-{number}"]) is None
        now[0] += 1.0
    assert 60 <= len(ports._paused) <= 61
