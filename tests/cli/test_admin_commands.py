"""networks, routers, requests, instance, who, purge: asked of a real server of the admin pipeline."""

import json

import pytest
from admin.local import host
from peers import answers, response

BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ROUTER = "b28e6f41-5d07-49ca-8c9f-13a4d7e0b652"
ADA = "7c52af88-d14b-45ae-87cf-be154d8c8638"


@pytest.fixture(scope="module")
def served():
    """A host on which two guests have asked, one of them unknown."""
    with host() as made:
        made.serve("agent")
        made.serve("admin-local")
        assert made.as_guest(BLUE, "10.0.0.5") == 200
        assert made.as_guest(BLUE, "10.0.0.5", "/%1b%5b2J%e2%80%ae") == 404
        assert made.as_guest(BLUE, "10.0.0.99") == 404
        yield made


@pytest.fixture
def api(mdmw, served, monkeypatch):
    """Run a command on the socket of that host, with nothing about a cloud in the environment."""
    for name in ("OS_CLOUD", "OS_AUTH_URL", "MDMW_ADMIN_URL"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: mdmw(*words, "--socket", served.folder / "admin-local")


def test_networks(api):
    status, out, err = api("networks")
    assert (status, err) == (0, "")
    heading, _, *rows = [line.split() for line in out.splitlines()]
    assert heading[:6] == ["NETWORK", "LISTENS", "PIPELINE", "REQUESTS", "4XX", "FAILED"]
    assert [row[:6] for row in rows] == [[BLUE, "-", "agent", "3", "2", "0"]]
    assert api("networks", BLUE) == (0, out, "")


def test_networks_json(api):
    status, out, _ = api("networks", "--json")
    said = json.loads(out)
    assert (status, [one["id"] for one in said["networks"]], said["silent"]) == (0, [BLUE], [])
    assert said["networks"][0]["pipelines"]["agent"]["statuses"] == {"2xx": 1, "4xx": 2}


@pytest.mark.parametrize("id_", [ROUTER, "x", "../requests", "a/b", "\N{SNOWMAN}"])
def test_a_network_that_is_not_served_is_status_1(api, id_):
    status, out, err = api("networks", id_)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"mdmw: this host does not serve network {id_}, " if "/" not in id_ else "mdmw: ")


def test_routers(api):
    status, out, _ = api("routers")
    assert (status, out.split()[0], ROUTER in out) == (0, "ROUTER", False)


def test_requests_the_newest_first(api):
    status, out, err = api("requests", "--network", BLUE)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[2] for row in rows] == ["10.0.0.99", "10.0.0.5", "10.0.0.5"]
    assert rows[0][3:] == ["-", "GET", "/latest/meta-data/", "404", *rows[0][7:9], "-", "NotIdentified"]
    assert len(api("requests", "--limit", "2")[1].splitlines()) == 4
    assert api("requests", "--router", ROUTER)[1].count("\n") == 2


def test_what_a_guest_writes_does_not_reach_the_terminal(api):
    _, out, _ = api("requests")
    assert "GET /?[2J?" in out
    assert all(line.isprintable() for line in out.splitlines())


def test_instance(api):
    status, out, _ = api("instance", ADA)
    assert (status, out.count(ADA)) == (0, 2)
    assert json.loads(api("instance", ADA, "--json")[1])["id"] == ADA


def test_an_instance_that_has_not_asked_is_status_1(api):
    assert api("instance", BLUE)[0] == 1


def test_who(api):
    status, out, err = api("who", "10.0.0.5", "--network", BLUE)
    assert (status, err) == (0, "")
    fields = dict(line.split(maxsplit=1) for line in out.splitlines()[2:5])
    assert fields["id"] == ADA
    assert "InventoryResolver of agent" in out


def test_nobody_is_status_1(api):
    status, out, err = api("who", "10.0.0.99", "--network", BLUE)
    assert (status, err) == (1, "")
    assert "no port of an instance" in out
    status, out, _ = api("who", "10.0.0.99", "--network", BLUE, "--json")
    assert (status, json.loads(out)["instance"]) == (1, None)


@pytest.mark.parametrize("words", [["--all"], ["--network", BLUE], ["--router", ROUTER]])
def test_purge(api, words):
    status, out, err = api("purge", *words)
    assert (status, err) == (0, "")
    assert out.splitlines()[2].split()[0] == "agent"
    assert json.loads(api("purge", *words, "--json")[1])["processes"][0]["dropped"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["who", "10", "--network", BLUE], "'10' is not an IP address"),
        (["requests", "--limit", "0"], "1 to 1000"),
        (["networks", "--url", "http://x"], "--socket is for an API without Keystone"),
        (["who", "10.0.0.5"], "--network"),
        (["purge"], "--all"),
    ],
)
def test_wrong_usage_is_status_2(api, words, said):
    status, out, err = api(*words)
    assert (status, out) == (2, "")
    assert said in err.splitlines()[-1]


def test_nobody_listens_is_status_1_and_one_line(mdmw, tmp_path):
    status, out, err = mdmw("networks", "--socket", tmp_path / "absent")
    assert (status, out) == (1, "")
    assert err == f"mdmw: no connection to unix:{tmp_path}/absent: [Errno 2] No such file or directory\n"


@pytest.mark.parametrize(
    "reply",
    [
        response("200 OK", b"<html>"),
        response("200 OK", b"{}"),
        response("200 OK", b"[]"),
        response("200 OK", b'{"networks": [{}], "bounds": [], "next": null, "silent": []}'),
        response("404 Not Found", b"{}"),
        response("404 Not Found", b'{"error": {"message": "no"}}'),
        response("500 Oops", b'{"error": 1}'),
        b"SSH-2.0\r\n\r\n",
    ],
)
def test_somebody_else_listens(mdmw, peers, reply):
    status, out, err = mdmw("networks", "--socket", peers.unix(answers(reply)).address.path)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("mdmw: ")


def test_processes_without_an_answer_are_named(mdmw, peers):
    """What is told is told without them."""
    page = {
        "networks": [],
        "bounds": [1.0],
        "next": None,
        "silent": [{"pipeline": "agent", "pid": 7, "problem": "no answer within 2 s"}],
    }
    path = peers.unix(answers(response("200 OK", json.dumps(page).encode()))).address.path
    status, _, err = mdmw("networks", "--socket", path)
    assert (status, err) == (0, "mdmw: without process 7 of pipeline agent: no answer within 2 s\n")


def test_a_list_in_parts(mdmw, peers):
    """And each problem of the plan is told."""
    place = {"listeners": [], "problems": ["no route"], "pipelines": {}}
    parts = [
        {"networks": [{"id": id_, **place}], "bounds": [1.0], "next": after, "silent": []}
        for id_, after in (("a", "/v1/networks?limit=1000&marker=a"), ("b", None))
    ]
    peer = peers.unix(answers(*(response("200 OK", json.dumps(part).encode()) for part in parts)))
    status, out, _ = mdmw("networks", "--socket", peer.address.path)
    assert status == 0
    assert [received.target for received in peer.requests][1] == parts[0]["next"]
    assert [line.split()[0] for line in out.splitlines()[2:4]] == ["a", "b"]
    assert out.endswith("network a: no route\nnetwork b: no route\n")
