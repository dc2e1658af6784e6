"""What is served, asked of real servers: counters, requests, who is who, purge and reload."""

import json
import os
import signal
import time

import pytest
from administered import Api
from local import ENTRY, host
from peers import PATIENCE, peers_in
from resolvers.neutron_api import Cloud, config
from stopping import stop

from mdmw.testing import resolvers

BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
GREEN = "c47e0d96-2b81-4a3f-8f57-e09d6c1a5b74"
ROUTER = "b28e6f41-5d07-49ca-8c9f-13a4d7e0b652"
ADA = "7c52af88-d14b-45ae-87cf-be154d8c8638"  # has 10.0.0.5 on blue
WORKERS = 2


@pytest.fixture(scope="module")
def made():
    """An agent of two processes that answers by itself, and the API beside it."""
    with host() as one:
        one.serve("agent", workers=WORKERS)
        one.serve("admin-local")
        eventually(lambda: len(pids(one)) == WORKERS)
        yield one


@pytest.fixture(scope="module")
def cached():
    """The same with a Neutron to ask, so that there is something to remember."""
    with host() as one, peers_in(str(one.folder)) as peers:
        conf = config(str(one.folder / "neutron.conf"), Cloud(peers).group())
        here = "resolver = inventory\ninventory_file = %(here)s/inventory.yaml"
        text = one.ini.read_text()
        assert here in text
        one.ini.write_text(text.replace(here, f"resolver = neutron\nconfig_file = {conf}"))
        one.serve("agent", workers=WORKERS)
        one.serve("admin-local")
        eventually(lambda: len(pids(one)) == WORKERS)
        yield one


def pids(made):
    """Those of the agent that answer."""
    return {one["pid"] for one in made.ask("POST", "/v1/cache:purge", {"all": True})[1]["processes"]}


def eventually(holds):
    """Wait for what others do by themselves; a look now and then, since nobody tells."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between two looks


def counted(made, network):
    """The counters of the agent for a network; all zero when there are none."""
    status, said = made.ask("GET", f"/v1/networks/{network}")
    return said["network"]["pipelines"]["agent"] if status == 200 else {"requests": 0, "statuses": {}}


def test_requests_are_counted_over_all_processes(made):
    before = counted(made, BLUE)
    for _ in range(20):
        assert made.as_guest(BLUE, "10.0.0.5") == 200
    assert made.as_guest(BLUE, "10.0.0.99") == 404
    after = counted(made, BLUE)
    assert after["requests"] - before["requests"] == 21
    assert after["statuses"]["2xx"] - before["statuses"].get("2xx", 0) == 20
    assert after["statuses"]["4xx"] - before["statuses"].get("4xx", 0) == 1
    assert sum(after["durations"]) == after["requests"]
    assert 0 < after["slowest"] <= after["seconds"]
    assert after["first"] <= after["last"]


def test_lists_in_parts(made):
    for network in (BLUE, GREEN):
        made.as_guest(network, "10.0.0.5")
    status, page = made.ask("GET", "/v1/networks?limit=1")
    assert (status, [one["id"] for one in page["networks"]]) == (200, [BLUE])
    _, page = made.ask("GET", page["next"])
    assert ([one["id"] for one in page["networks"]], page["next"]) == ([GREEN], None)
    assert made.ask("GET", f"/v1/networks?marker={GREEN}")[1]["networks"] == []
    assert made.ask("GET", "/v1/routers")[1]["routers"] == []


def test_what_is_not_served(made):
    assert made.ask("GET", f"/v1/networks/{ROUTER}")[0] == 404
    assert made.ask("GET", f"/v1/routers/{BLUE}")[0] == 404


def test_the_last_requests(made):
    """The newest first, of all processes; and what they asked for, but not with which query."""
    for number in range(5):
        made.as_guest(BLUE, "10.0.0.5", f"/latest/meta-data/{number}?token=hunter2")
    status, said = made.ask("GET", f"/v1/requests?limit=5&network={BLUE}")
    assert status == 200
    assert [one["path"] for one in said["requests"]] == [f"/latest/meta-data/{n}" for n in (4, 3, 2, 1, 0)]
    (first, *_) = said["requests"]
    assert (first["network"], first["router"], first["address"]) == (BLUE, None, "10.0.0.5")
    assert (first["instance"], first["status"], first["pipeline"]) == (ADA, 404, "agent")
    assert "hunter2" not in json.dumps(said)
    assert made.ask("GET", f"/v1/requests?router={ROUTER}")[1]["requests"] == []
    assert made.ask("GET", f"/v1/requests?network={BLUE}&router={ROUTER}")[0] == 400


def test_what_an_instance_got(made):
    made.as_guest(BLUE, "10.0.0.5")
    made.as_guest(GREEN, "10.0.0.5")
    _, said = made.ask("GET", f"/v1/instances/{ADA}?limit=3")
    assert {one["instance"] for one in said["requests"]} == {ADA}
    assert made.ask("GET", f"/v1/instances/{BLUE}")[1]["requests"] == []


def test_who_is_this(cached):
    """The resolver's answer, and what each cache knew beforehand."""
    cached.ask("POST", "/v1/cache:purge", {"all": True})
    target = f"/v1/resolve?network={resolvers.BLUE}&address=10.0.0.5"
    status, said = cached.ask("GET", target)
    assert (status, said["instance"]["id"], said["reason"]) == (200, resolvers.ADA, "")
    assert (said["path"]["resolver"], said["path"]["calls"]) == ("NeutronResolver", 1)
    assert [(one["answers"], one["snapshot"]) for one in said["caches"]] == [([], None)] * WORKERS
    asked = said["path"]["pid"]
    _, said = cached.ask("GET", target)
    assert (said["path"]["cache"], said["path"]["calls"]) == ("hit", 0)
    (remembered,) = [one for one in said["caches"] if one["pid"] == asked]
    assert remembered["answers"][0]["instance"]["id"] == resolvers.ADA
    _, said = cached.ask("GET", f"{target}&fresh=true")
    assert said["path"]["calls"] == 1


def test_who_is_nobody(cached):
    network = resolvers.BLUE
    status, said = cached.ask("GET", f"/v1/resolve?network={network}&address=10.0.0.99")
    assert (status, said["instance"], "no port" in said["reason"]) == (200, None, True)
    status, said = cached.ask("GET", f"/v1/resolve?network={network}&address=10.0.0.999")
    assert (status, "not an IP address" in said["error"]["message"]) == (400, True)
    assert cached.ask("GET", f"/v1/resolve?network={network}&address=10.0.0.5&mac=x")[0] == 400


def test_who_is_this_without_a_cache(made):
    status, said = made.ask("GET", f"/v1/resolve?network={BLUE}&address=10.0.0.5")
    assert (status, said["instance"]["id"], said["caches"]) == (200, ADA, [])


def test_purge_reaches_every_process(cached):
    for _ in range(20):
        cached.as_guest(resolvers.BLUE, "10.0.0.5")
    status, said = cached.ask("POST", "/v1/cache:purge", {"network": resolvers.BLUE})
    assert (status, len(said["processes"])) == (200, WORKERS)
    assert sum(one["dropped"] for one in said["processes"]) >= 1
    _, said = cached.ask("POST", "/v1/cache:purge", {"network": resolvers.BLUE})
    assert sum(one["dropped"] for one in said["processes"]) == 0
    assert f"emptied the caches of network {resolvers.BLUE}" in cached.log("admin-local")


def test_a_process_that_hangs_is_named(made):
    """The others are heard, and the answer says what it lacks."""
    _, said = made.ask("POST", "/v1/cache:purge", {"all": True})
    stopped = said["processes"][0]["pid"]
    stop(stopped)
    try:
        status, said = made.ask("GET", "/v1/networks")
        assert status == 200
        assert [(one["pid"], one["pipeline"]) for one in said["silent"]] == [(stopped, "agent")]
        status, said = made.ask("GET", f"/v1/resolve?network={BLUE}&address=10.0.0.5")
        assert (status, said["path"]["pid"] != stopped) == (200, True)
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_reload_replaces_the_processes(made):
    """One SIGHUP for their one master."""
    before = pids(made)
    status, said = made.ask("POST", "/v1/reload")
    assert (status, {one["pid"] for one in said["processes"]}) == (200, before)
    assert all(one["reloads"] for one in said["processes"])
    eventually(lambda: len(pids(made) - before) == WORKERS and not pids(made) & before)
    assert made.log("agent").count("Handling signal: hup") == 1
    assert "lets the serving processes load their configuration again" in made.log("admin-local")


def test_a_configuration_that_is_bad_stays_out(made):
    before, text = pids(made), made.ini.read_text()
    made.ini.write_text(text.replace(ENTRY, f"{ENTRY} and-more"))
    try:
        assert made.ask("POST", "/v1/reload")[0] == 200
        eventually(lambda: "the old configuration stays in service" in made.log("agent"))
        assert pids(made) == before
    finally:
        made.ini.write_text(text)


def test_config_is_that_of_mdmw_check(made):
    status, said = made.ask("GET", "/v1/config")
    assert (status, said["file"]) == (200, str(made.ini))
    assert [stage["stage"] for stage in said["pipelines"]["admin-local"]] == ["local-operator", "admin-api"]
    made.ini.write_text(made.ini.read_text() + "\n[broken")
    try:
        assert made.ask("GET", "/v1/config")[0] == 503
    finally:
        made.ini.write_text(made.ini.read_text().removesuffix("\n[broken"))


def test_config_shows_no_secrets(made):
    text = made.ini.read_text()
    made.ini.write_text(
        text.replace(
            "metadata_proxy_shared_secret_file = %(here)s/shared-secret",
            "metadata_proxy_shared_secret = hunter2",
        )
    )
    try:
        _, said = made.ask("GET", "/v1/config")
    finally:
        made.ini.write_text(text)
    assert "hunter2" not in json.dumps(said)
    assert "****" in json.dumps(said)


def test_a_server_that_cannot_reload_says_so():
    with host() as one:
        one.serve("agent", "waitress")
        one.serve("admin-local")
        _, said = one.ask("POST", "/v1/reload")
        (answer,) = said["processes"]
        assert (answer["reloads"], "restart it" in answer["text"]) == (False, True)


def test_nobody_serves(api):
    assert api.ask("GET", "/v1/networks")[1]["networks"] == []
    reply, said = api.ask("GET", f"/v1/resolve?network={BLUE}&address=10.0.0.5")
    assert (reply.status, "no serving process" in said["error"]["message"]) == (503, True)
    assert api.ask("POST", "/v1/reload")[1] == {"processes": []}


def test_processes_that_may_not_be_asked(tmp_path):
    """A file in place of the directory is as good as no permission, which root always has."""
    (tmp_path / "processes").touch()
    reply, said = Api(introspect_dir=tmp_path / "processes").ask("GET", "/v1/networks")
    assert (reply.status, "cannot be read" in said["error"]["message"]) == (503, True)


def test_listeners_are_what_the_node_says(api, tmp_path):
    status = {
        "version": 1,
        "pid": os.getpid(),
        "since": 1700000000,
        "listeners": [
            {
                "scope": ["network", BLUE],
                "namespace": f"qdhcp-{BLUE}",
                "address": "169.254.169.254",
                "port": 80,
                "since": 1700000000,
            }
        ],
        "plan": {
            "source": "neutron",
            "asked_at": 1700000000,
            "applied_at": 1700000000,
            "problems": [{"scope": ["router", ROUTER], "text": "no such namespace"}],
        },
    }
    file = tmp_path / "node-status.json"
    file.write_text(json.dumps(status))
    _, said = api.ask("GET", f"/v1/networks/{BLUE}")
    (listener,) = said["network"]["listeners"]
    assert (listener["port"], listener["since"]) == (80, "2023-11-14T22:13:20.000+00:00")
    _, said = api.ask("GET", f"/v1/routers/{ROUTER}")
    assert said["router"]["problems"] == ["no such namespace"]
    file.write_text("{")
    assert api.ask("GET", "/v1/networks")[0].status == 503
