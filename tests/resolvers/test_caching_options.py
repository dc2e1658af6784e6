"""The options of the cache: the section first, then Neutron's [cache], then the default."""

import pytest
import yaml
from cached_cloud import Cloud

from mdmw import options
from mdmw.errors import ConfigError
from mdmw.filters.instance_resolve import InstanceResolve, filter_factory
from mdmw.resolvers.cache_options import OPTIONS, cached
from mdmw.resolvers.caching import Caching
from mdmw.resolvers.neutron import PortResolver


@pytest.fixture
def made(tmp_path):
    """Makes a cache from the options of a section and the text of Neutron's file."""

    def make(neutron="", **section):
        path = tmp_path / "neutron.conf"
        path.write_text(neutron)
        given = {"config_file": str(path), **section}
        return cached(PortResolver(Cloud()), options.load("instance-resolve", OPTIONS, {}, given))

    return make


def test_defaults(made):
    """2.7: on, 10 s, nobody for 1 s, old answers for 30 s more, 10 000 entries; in memory."""
    cache = made()
    limits = cache._limits
    assert isinstance(cache, Caching)
    assert (limits.expiration, limits.negative, limits.idle, limits.stale) == (10, 1, 5, 30)
    assert limits.entries == 10_000
    assert cache._shared is None


def test_what_neutron_says(made):
    assert made("[cache]\nexpiration_time = 7\n")._limits.expiration == 7
    assert not isinstance(made("[cache]\nenabled = false\n"), Caching)
    assert isinstance(made("[cache]\nenabled = true\n"), Caching)


def test_the_section_wins_over_neutron(made):
    neutron = "[cache]\nenabled = false\nexpiration_time = 7\nbackend = dogpile.cache.pymemcache\n"
    cache = made(
        neutron,
        cache_enabled="true",
        cache_expiration_time="3",
        cache_idle_time="1",
        cache_negative_time="0.5",
        cache_stale_if_error="0",
        cache_max_entries="500",
        cache_backend="dogpile.cache.memory",
    )
    limits = cache._limits
    assert (limits.expiration, limits.negative, limits.idle, limits.stale) == (3, 0.5, 1, 0)
    assert limits.entries == 500
    assert cache._shared is None
    assert not isinstance(made("[cache]\nenabled = true\n", cache_enabled="false"), Caching)


@pytest.mark.parametrize(
    ("neutron", "section", "servers"),
    [
        ("", {}, ["localhost:11211"]),
        ("", {"cache_backend_argument": "url:10.0.0.1:11211"}, ["10.0.0.1:11211"]),
        (
            "",
            {"cache_backend_argument": "url: /run/m , [::1]:11211\nsocket_timeout:2"},
            ["/run/m", "[::1]:11211"],
        ),
        ("memcache_servers = a:1,inet6:[::1]:2\n", {}, ["a:1", "[::1]:2"]),
        ("backend_argument = url:a:1\nbackend_argument = distributed_lock:True\n", {}, ["a:1"]),
        ("backend_argument = url:a:1\n", {"cache_backend_argument": "url:b:2"}, ["b:2"]),
    ],
)
def test_servers_of_memcached(made, neutron, section, servers):
    cache = made(f"[cache]\n{neutron}", cache_backend="dogpile.cache.pymemcache", **section)
    clients = cache._shared._store._clients
    expected = [made_server(server) for server in servers]
    assert [client.server for client in clients] == expected


def made_server(text):
    if text.startswith("/"):
        return text
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


@pytest.mark.parametrize(
    "name", ["dogpile.cache.pymemcache", "dogpile.cache.memcached", "oslo_cache.memcache_pool"]
)
def test_every_memcached_of_neutron_is_understood(made, name):
    assert made(f"[cache]\nbackend = {name}\n")._shared is not None


@pytest.mark.parametrize("name", ["dogpile.cache.null", "oslo_cache.dict", "dogpile.cache.memory"])
def test_every_memory_of_neutron_is_understood(made, caplog, name):
    assert made(f"[cache]\nbackend = {name}\n")._shared is None
    assert caplog.records == []


def test_another_backend_of_neutron_is_not_used(made, caplog):
    assert made("[cache]\nbackend = dogpile.cache.redis\n")._shared is None
    assert "dogpile.cache.redis" in caplog.text


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"cache_backend": "dogpile.cache.dbm"}, ["'cache_backend'", "dogpile.cache.dbm"]),
        ({"cache_negative_time": "5"}, ["'cache_negative_time'", "5"]),
        ({"cache_max_entries": "0"}, ["'cache_max_entries'"]),
        ({"cache_idle_time": "-1"}, ["'cache_idle_time'"]),
        (
            {"cache_backend_argument": "colour:red"},
            ["'cache_backend_argument'", "'colour'", "socket_timeout"],
        ),
        ({"cache_backend_argument": "socket_timeout:soon"}, ["'cache_backend_argument'", "socket_timeout"]),
        ({"cache_backend_argument": "socket_timeout:0"}, ["'cache_backend_argument'", "socket_timeout"]),
        ({"cache_backend_argument": "url:host:port"}, ["'cache_backend_argument'", "url"]),
    ],
)
def test_bad_values(made, section, named):
    with pytest.raises(ConfigError) as error:
        made("[cache]\nbackend = dogpile.cache.pymemcache\n", **section)
    text = str(error.value)
    assert "\n" not in text
    assert [name for name in named if name not in text] == []


def test_bad_value_of_neutron(made):
    with pytest.raises(ConfigError, match="expiration_time"):
        made("[cache]\nexpiration_time = soon\n")


@pytest.mark.parametrize(("mode", "why"), [(0o755, "only its owner"), (None, "No such file")])
def test_the_directory_of_a_group_is_private(made, tmp_path, monkeypatch, mode, why):
    path = tmp_path / "group"
    if mode is not None:
        path.mkdir()
        path.chmod(mode)
    monkeypatch.setenv("MDMW_GROUP_DIR", str(path))
    with pytest.raises(ConfigError, match=f"MDMW_GROUP_DIR.*{why}"):
        made()


def test_a_resolver_that_answers_from_memory_is_not_cached(tmp_path):
    """`cheap`: the path of a request through the inventory is as short as it was."""
    path = tmp_path / "inventory.yaml"
    path.write_text(yaml.safe_dump({"networks": [], "routers": [], "instances": []}))
    stage = filter_factory({}, resolver="inventory", inventory_file=str(path))(lambda *_: [])
    assert isinstance(stage, InstanceResolve)
    assert stage._cache is None
