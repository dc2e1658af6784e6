"""The inventory through the API: versions, conflicts, lists in parts, and who changed what."""

import logging
import threading

import pytest
from administered import ADMIN, READER, Api, operator

BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
GREEN = "c47e0d96-2b81-4a3f-8f57-e09d6c1a5b74"
SUBNET = "6a1f0c3e-1111-4c55-8f7e-0d3b5a9c2e10"
PORT = "a3f04c61-8e2d-47b9-95d0-c6e71b8f2a43"
ADA = "7c52af88-d14b-45ae-87cf-be154d8c8638"
ROUTER = "b28e6f41-5d07-49ca-8c9f-13a4d7e0b652"
SECRET = "hunter2"

NETWORK = {"id": BLUE, "name": "blue", "subnets": [{"id": SUBNET, "cidr": "10.0.0.0/24"}]}
INSTANCE = {
    "id": ADA,
    "project_id": "p",
    "name": "ada",
    "user_data": f"password: {SECRET}",
    "ports": [{"id": PORT, "network": BLUE, "mac": "fa:16:3e:00:00:01", "addresses": ["10.0.0.5"]}],
}
NETWORKS = "/v1/inventory/networks"
INSTANCES = "/v1/inventory/instances"


def tag(reply):
    """What the next change needs."""
    return [("If-Match", reply.value("ETag"))]


@pytest.fixture
def network(api):
    """The reply to the creation of one."""
    reply, _ = api.ask("POST", NETWORKS, NETWORK)
    return reply


def test_a_life(api, network):
    """Created, read, replaced, deleted."""
    assert network.status == 201
    assert network.value("Location").endswith(f"{NETWORKS}/{BLUE}")
    place = f"{NETWORKS}/{BLUE}"
    got, document = api.ask("GET", place)
    assert (got.status, document["name"], got.value("ETag")) == (200, "blue", network.value("ETag"))
    put, document = api.ask("PUT", place, NETWORK | {"name": "navy"}, tag(got))
    assert (put.status, document["name"]) == (200, "navy")
    assert put.value("ETag") != got.value("ETag")
    gone, nothing = api.ask("DELETE", place, headers=tag(put))
    assert (gone.status, nothing) == (204, None)
    assert api.ask("GET", place)[0].status == 404


def test_a_change_needs_the_version(api, network):
    """428 without If-Match, 412 with another one; `*` is any."""
    place = f"{NETWORKS}/{BLUE}"
    for method, document in (("PUT", NETWORK), ("DELETE", None)):
        assert api.ask(method, place, document)[0].status == 428
        for wrong in ('"1"', f"W/{network.value('ETag')}", "nonsense", ""):
            assert api.ask(method, place, document, [("If-Match", wrong)])[0].status == 412
    listed = f'"1", {network.value("ETag")}'
    assert api.ask("PUT", place, NETWORK | {"mtu": 1400}, [("If-Match", listed)])[0].status == 200
    assert api.ask("DELETE", place, headers=[("If-Match", "*")])[0].status == 204


def test_of_two_at_once_one_wins(api, network):
    place = f"{NETWORKS}/{BLUE}"
    statuses = []
    start = threading.Barrier(4)

    def change(number):
        start.wait()
        reply, _ = api.ask("PUT", place, NETWORK | {"name": f"name {number}"}, tag(network))
        statuses.append(reply.status)

    threads = [threading.Thread(target=change, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 412, 412, 412]


def test_what_does_not_fit(api, network):
    """400 for the document itself, 409 for the whole, in one line that names the place."""
    reply, said = api.ask("POST", NETWORKS, {"id": GREEN, "colour": "red"})
    assert (reply.status, "colour" in said["error"]["message"]) == (400, True)
    assert api.ask("POST", NETWORKS, NETWORK)[0].status == 409
    lost = INSTANCE | {"ports": [INSTANCE["ports"][0] | {"network": GREEN}]}
    reply, said = api.ask("POST", INSTANCES, lost)
    assert (reply.status, PORT in said["error"]["message"] or ADA in said["error"]["message"]) == (409, True)
    assert api.ask("POST", INSTANCES, INSTANCE)[0].status == 201
    reply, said = api.ask("DELETE", f"{NETWORKS}/{BLUE}", headers=tag(network))
    assert (reply.status, ADA in said["error"]["message"] or BLUE in said["error"]["message"]) == (409, True)
    reply, _ = api.ask("PUT", f"{NETWORKS}/{BLUE}", NETWORK | {"id": GREEN}, tag(network))
    assert reply.status == 400


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_not_there(api, method):
    for kind in ("networks", "routers", "instances"):
        whole = {"id": BLUE, "project_id": "p", "name": "x"} if kind == "instances" else {"id": BLUE}
        document = whole if method == "PUT" else None
        place = f"/v1/inventory/{kind}/{BLUE}"
        assert api.ask(method, place, document, [("If-Match", "*")])[0].status == 404


def test_without_a_database_there_is_nothing():
    api = Api()
    for method, place in (("GET", NETWORKS), ("POST", NETWORKS), ("GET", "/v1/inventory/audit")):
        reply, said = api.ask(method, place, NETWORK if method == "POST" else None)
        assert (reply.status, "inventory_db" in said["error"]["message"]) == (404, True)


def test_lists_in_parts(api):
    """In order of creation; `next` leads through all of it."""
    ids = [f"1f9c3a52-6d0e-4f6b-9c1e-{number:012x}" for number in range(5)]
    for id_ in ids:
        assert api.ask("POST", NETWORKS, {"id": id_})[0].status == 201
    seen, target = [], f"{NETWORKS}?limit=2"
    while target:
        _, page = api.ask("GET", target)
        assert len(page["networks"]) <= 2
        seen += [entry["id"] for entry in page["networks"]]
        target = page["next"]
    assert seen == ids
    assert api.ask("GET", f"{NETWORKS}?limit=5")[1]["next"] is None
    assert api.ask("GET", f"{NETWORKS}?marker={GREEN}")[0].status == 400


def test_a_list_tells_no_secrets(api, network):
    api.ask("POST", INSTANCES, INSTANCE)
    _, page = api.ask("GET", INSTANCES, by=READER)
    (entry,) = page["instances"]
    assert (entry["id"], entry["name"], entry["ports"][0]["network"]) == (ADA, "ada", BLUE)
    assert SECRET not in str(page)
    assert api.ask("GET", f"{INSTANCES}/{ADA}", by=READER)[0].status == 403
    assert api.ask("GET", f"{INSTANCES}/{ADA}", by=ADMIN)[1]["user_data"] == f"password: {SECRET}"


def test_routers(api, network):
    reply, _ = api.ask("POST", "/v1/inventory/routers", {"id": ROUTER, "interfaces": []})
    assert reply.status == 201
    assert api.ask("GET", f"/v1/inventory/routers/{ROUTER}")[1]["id"] == ROUTER


def test_each_change_is_on_record(api, network, caplog):
    """Who, what, when, and the names of the fields; no value, in the record or in the log."""
    caplog.set_level(logging.DEBUG)
    created, _ = api.ask("POST", INSTANCES, INSTANCE)
    place = f"{INSTANCES}/{ADA}"
    replaced, _ = api.ask("PUT", place, INSTANCE | {"password": SECRET}, tag(created))
    deleted, _ = api.ask("DELETE", place, headers=tag(replaced))
    _, page = api.ask("GET", f"/v1/inventory/audit?kind=instances&id={ADA}", by=READER)
    assert [change["action"] for change in page["changes"]] == ["delete", "replace", "create"]
    deletion, replacement, _ = page["changes"]
    assert replacement["fields"] == ["password"]
    assert replacement["caller"] == {
        "name": "ada",
        "user_id": "u-1",
        "project_id": "p-1",
        "request_id": replaced.value("X-Openstack-Request-Id"),
    }
    assert deletion["caller"]["request_id"] == deleted.value("X-Openstack-Request-Id")
    assert SECRET not in str(page)
    logged = [record.getMessage() for record in caplog.records]
    assert any(f"replaced instances[{ADA}]" in line and "ada (u-1)" in line for line in logged)
    assert SECRET not in "".join(logged)


def test_the_record_in_parts(api, network):
    for number in range(3):
        reply, _ = api.ask("GET", f"{NETWORKS}/{BLUE}")
        api.ask("PUT", f"{NETWORKS}/{BLUE}", NETWORK | {"name": f"name {number}"}, tag(reply))
    numbers, target = [], "/v1/inventory/audit?limit=3&kind=networks"
    while target:
        _, page = api.ask("GET", target)
        numbers += [change["number"] for change in page["changes"]]
        target = page["next"]
    assert len(numbers) == 4
    assert numbers == sorted(numbers, reverse=True)


def test_what_is_refused_changes_nothing(api, network):
    api.ask("POST", NETWORKS, NETWORK)
    api.ask("PUT", f"{NETWORKS}/{BLUE}", NETWORK | {"name": "x"}, [("If-Match", '"1"')])
    api.ask("DELETE", f"{NETWORKS}/{BLUE}", headers=[("If-Match", '"1"')])
    api.ask("PUT", f"{NETWORKS}/{BLUE}", NETWORK | {"name": "x"}, [("If-Match", "*")], by=READER)
    assert len(api.ask("GET", "/v1/inventory/audit")[1]["changes"]) == 1


def test_the_name_of_an_operator_breaks_no_line(api, caplog):
    """A user's name is whatever Keystone allows."""
    caplog.set_level(logging.INFO)
    eve = operator("admin", name="eve\nERROR forged")
    assert [api.ask("POST", NETWORKS, NETWORK, by=eve)[0].status for _ in range(2)] == [201, 409]
    assert len(caplog.records) == 2
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_broken_database_is_503(api, network, tmp_path):
    """Transient, so not 404 or 500."""
    (tmp_path / "inventory.sqlite").rename(tmp_path / "elsewhere")
    (tmp_path / "inventory.sqlite").write_bytes(b"no database")
    reply, _ = api.ask("GET", f"{NETWORKS}/{BLUE}")
    assert (reply.status, reply.value("Retry-After")) == (503, "1")
