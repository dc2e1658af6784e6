"""Every fault that Keystone and Neutron can have: what the guest sees, and what the log says (spec 1.6).

The messages are those of the table in the documentation, to the letter.
"""

import logging
import time
from pathlib import Path

import pytest
from neutron_api import Cloud, answer, described, drips, ends_with, holds, says
from peers import response

from mdmw.boundary.stage import answer as answer_to
from mdmw.errors import NotIdentified, Unavailable
from mdmw.records import SOURCE, Scope, Source
from mdmw.testing.resolvers import ADA as ADA_ID
from mdmw.testing.resolvers import BLUE, WORLD

ADA = Source("10.0.0.5", Scope("network", BLUE))
TABLE = Path(__file__).parents[2] / "doc" / "neutron-faults.inc.rst"
QUICK = {"neutron_timeout": "0.3", "neutron_total_timeout": "0.6"}
SECRETS = ("secret-token", "battery")

REDIRECT = response("302 Found", b"", "Location: http://192.0.2.1/")
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b'{"ports":'
HTML = response("200 OK", b"<html>secret-token</html>", "Content-Type: text/html")
DRIPS = drips(b"HTTP/1.1 200 OK\r\n" + b"X-Drop: 1\r\n" * 100, 0.05)
PORT = described(WORLD.ports[0])
CIRCLE = {"ports": [], "ports_links": [{"rel": "next", "href": "?marker=1"}]}
NOWHERE = {"ports": [], "ports_links": [{"rel": "next", "href": "?"}]}


def error(status, *headers):
    """An error page that quotes what it should not."""
    return says(answer({"error": {"message": "secret-token battery"}}, status, *headers))


KEYSTONE = [
    (holds, "Keystone: http://keystone:5000 did not answer in time: not a byte"),
    (ends_with(HALF), "Keystone: http://keystone:5000 closed the connection: after 9 bytes of the body"),
    (
        says(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "Keystone: http://keystone:5000 answered something that is not HTTP: no status line",
    ),
    (error("401 Unauthorized"), "Keystone refuses the credentials (401)"),
    (error("403 Forbidden"), "Keystone answers 403"),
    (error("404 Not Found"), "Keystone answers 404"),
    (error("429 Too Many Requests"), "Keystone answers 429"),
    (error("500 Internal Server Error"), "Keystone answers 500"),
    (says(response("503 Service Unavailable", b"<html>")), "Keystone answers 503"),
    (says(REDIRECT), "Keystone answers 302 without a token"),
    (says(HTML), "Keystone answers 200 without a token"),
    (says(answer(["token"])), "Keystone gives a malformed answer (KeyError)"),
    (says(answer({"tok": {}})), "Keystone answers 200 without a token"),
    (
        says(answer({"token": {}}, "201 Created", "X-Subject-Token: t")),
        "Keystone gives a malformed answer (KeyError)",
    ),
]

NEUTRON = [
    (holds, "Neutron: http://neutron:9696 did not answer in time: not a byte"),
    (ends_with(HALF), "Neutron: http://neutron:9696 closed the connection: after 9 bytes of the body"),
    (
        says(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "Neutron: http://neutron:9696 answered something that is not HTTP: no status line",
    ),
    (error("401 Unauthorized"), "Neutron answers 401: the token is refused"),
    (error("403 Forbidden"), "Neutron answers 403: the user may not list ports"),
    (error("404 Not Found"), "Neutron answers 404: there is no Neutron at this address"),
    (error("413 Over Limit"), "Neutron answers 413: it wants to be asked less often"),
    (error("414 Too Long"), "Neutron: the query is too long (414), though it is for one network"),
    (error("429 Too Many Requests"), "Neutron answers 429: it wants to be asked less often"),
    (error("500 Internal Server Error"), "Neutron answers 500"),
    (says(response("503 Service Unavailable", b"<html>")), "Neutron answers 503"),
    (says(REDIRECT), "Neutron answers 302: a redirect is not followed"),
    (says(HTML), "Neutron: the answer is not a list of ports"),
    (says(response("200 OK", b"")), "Neutron: the answer is not a list of ports"),
    (says(response("200 OK", b'{"ports": []')), "Neutron: the answer is not a list of ports"),
    (says(response("200 OK", b"\xff\xfe\x00")), "Neutron: the answer is not a list of ports"),
    (says(response("200 OK", b"[" * 100_000)), "Neutron: the answer is not a list of ports"),
    (says(answer([])), "Neutron: the answer is not a list of ports"),
    (says(answer({"ports": {}})), "Neutron: the answer is not a list of ports"),
    (
        says(answer({"ports": [{k: v for k, v in PORT.items() if k != "fixed_ips"}]})),
        "Neutron: a port in the answer has no 'fixed_ips'",
    ),
    (
        says(answer({"ports": [PORT | {"device_id": 7}]})),
        "Neutron: a port in the answer is malformed",
    ),
    (says(answer({"ports": [None]})), "Neutron: a port in the answer is malformed"),
    (says(answer(CIRCLE)), "Neutron: a list of ports with no end (1 pages)"),
    (says(answer(NOWHERE)), "Neutron: the link to the next page has no marker"),
]


@pytest.fixture
def table():
    """The table of the documentation, in which addresses stand for all."""
    return " ".join(TABLE.read_text().split())


@pytest.fixture
def ask(cloud, caplog):
    """What the guest sees, and what the log says of it."""
    caplog.set_level(logging.INFO)

    def ask(resolver):
        caplog.clear()
        began = time.monotonic()
        with pytest.raises((Unavailable, NotIdentified)) as raised:
            resolver.resolve(ADA)
        assert time.monotonic() - began < 10
        seen = answer_to(raised.value, {SOURCE: ADA})
        said = caplog.records[-1].getMessage().partition(f": {seen.status_int}: ")[2]
        assert not [secret for secret in SECRETS if secret in caplog.text + seen.text]
        said = said.replace(str(cloud.keystone.address), "http://keystone:5000")
        return seen, said.replace(str(cloud.neutron.address), "http://neutron:9696")

    return ask


def unavailable(seen, retry_after="1"):
    return seen.status_int == 503 and seen.headers["Retry-After"] == retry_after


@pytest.mark.parametrize(("act", "message"), KEYSTONE)
def test_keystone_misbehaves(cloud, neutron, ask, table, act, message):
    """Spec 1.6: 503, and nobody is looked for without a token."""
    cloud.keystone_faults.always = act
    seen, said = ask(neutron(group={"auth_type": "v3password"}, **QUICK))
    assert unavailable(seen)
    assert said == message
    assert f"``{message}``" in table
    assert not cloud.queries


@pytest.mark.parametrize(("act", "message"), NEUTRON)
def test_neutron_misbehaves(cloud, neutron, ask, table, act, message):
    """Spec 1.6: 503, never a 404."""
    cloud.neutron_faults.always = act
    seen, said = ask(neutron(**QUICK))
    assert unavailable(seen)
    assert said == message
    assert f"``{message}``" in table


@pytest.mark.parametrize("service", ["keystone", "neutron"])
def test_answers_that_trickle(cloud, neutron, ask, table, service):
    """Each byte is in time, the whole is not."""
    getattr(cloud, f"{service}_faults").always = DRIPS
    seen, said = ask(neutron(**QUICK))
    assert unavailable(seen)
    address = {"keystone": "http://keystone:5000", "neutron": "http://neutron:9696"}[service]
    expected = f"{service.title()}: {address} did not answer in time: "
    assert said.startswith(expected)
    assert f"``{expected}the time for this request has ended``" in table


@pytest.mark.parametrize("act", [act for act, _ in NEUTRON])
def test_no_fault_is_remembered(cloud, neutron, act):
    """Once Neutron is well again, so is everything."""
    resolver = neutron(**QUICK)
    cloud.neutron_faults.always = act
    with pytest.raises(Unavailable):
        resolver.resolve(ADA)
    cloud.neutron_faults.always = None
    resolver._queries._pause_until = 0.0  # instead of waiting for what a 429 asks for
    assert resolver.resolve(ADA).id == ADA_ID


def test_keystone_is_asked_again_after_a_while(cloud, neutron):
    """A failure is everybody's for a second, and then it is forgotten."""
    resolver = neutron()
    cloud.keystone_faults.always = error("500 Internal Server Error")
    with pytest.raises(Unavailable):
        resolver.resolve(ADA)
    cloud.keystone_faults.always = None
    with pytest.raises(Unavailable):
        resolver.resolve(ADA)
    resolver._queries._get.__self__._failed_at = 0.0  # instead of waiting for `REST`
    assert resolver.resolve(ADA).id == ADA_ID


@pytest.mark.parametrize("down", ["keystone", "neutron"])
def test_down(cloud, neutron, ask, table, peers, down):
    """Nobody listens."""
    where = peers.refusing()
    option = {"keystone": "auth_url", "neutron": "endpoint_override"}[down]
    seen, said = ask(neutron(group={option: str(where)}))
    assert unavailable(seen)
    port = {"keystone": 5000, "neutron": 9696}[down]
    said = said.replace(str(where), f"http://{down}:{port}")
    assert said == (f"{down.title()}: no connection to http://{down}:{port}: [Errno 111] Connection refused")
    assert f"``{said}``" in table


@pytest.mark.parametrize("page", [HTML, answer([]), answer({"versions": []}), answer({"versions": 7})])
def test_not_keystone_when_versions_are_asked_for(cloud, neutron, ask, table, page):
    """The generic plugins look for versions first."""
    cloud.keystone_faults.always = says(page)
    seen, said = ask(neutron())
    assert unavailable(seen)
    assert said in (
        "Keystone does not say which versions of its API there are",
        "Keystone gives a malformed answer (TypeError)",
    )
    assert "``Keystone does not say which versions of its API there are``" in table


def test_keystone_fails_when_versions_are_asked_for(cloud, neutron, ask):
    """The generic plugins look for versions first."""
    cloud.keystone_faults.always = error("500 Internal Server Error")
    _seen, said = ask(neutron())
    assert said == "Keystone answers 500"


def test_keystone_wants_a_token_when_versions_are_asked_for(cloud, neutron, ask, table):
    """Some gateways do. keystoneauth1 then asks its plugin, which is waiting for this very answer."""
    cloud.keystone_faults.always = error("401 Unauthorized")
    resolver = neutron(**QUICK)
    seen, said = ask(resolver)
    assert unavailable(seen)
    assert said == "Keystone wants a token before it says which versions of its API there are (401)"
    assert f"``{said}``" in table
    cloud.keystone_faults.always = None
    resolver._queries._get.__self__._failed_at = 0.0  # instead of waiting for `REST`
    assert resolver.resolve(ADA).id == ADA_ID


def test_catalogue_without_neutron(cloud, neutron, ask, table):
    """R-17."""
    cloud.interfaces = set()
    seen, said = ask(neutron())
    assert unavailable(seen)
    assert f"``{said}``" in table


def test_every_token_is_refused(cloud, neutron, ask, table):
    """R-16: what follows within a second."""
    cloud.neutron_faults.always = error("401 Unauthorized")
    resolver = neutron()
    ask(resolver)
    _seen, said = ask(resolver)
    assert f"``{said}``" in table
    assert len(cloud.tokens) == 2


@pytest.mark.parametrize(
    ("status", "header", "expected"),
    [
        ("429 Too Many Requests", "7", "7"),
        ("413 Over Limit", "7", "7"),
        ("503 Service Unavailable", "7", "7"),
        ("429 Too Many Requests", "86400", "30"),
        ("429 Too Many Requests", "0", "1"),
        ("429 Too Many Requests", "-5", "1"),
        ("429 Too Many Requests", "Sat, 21 Nov 2026 12:00:00 GMT", "1"),
        ("429 Too Many Requests", "9" * 5000, "1"),
    ],
)
def test_retry_after(cloud, neutron, ask, status, header, expected):
    """What Neutron asks for reaches the guest, within reason."""
    cloud.neutron_faults.always = error(status, f"Retry-After: {header}")
    seen, _said = ask(neutron())
    assert unavailable(seen, expected)


@pytest.mark.parametrize("status", ["413 Over Limit", "429 Too Many Requests"])
def test_neutron_is_left_alone_for_as_long_as_it_asked(cloud, neutron, ask, table, status):
    """A storm must not go on against a limit."""
    cloud.neutron_faults.always = error(status, "Retry-After: 20")
    resolver = neutron()
    ask(resolver)
    seen, said = ask(resolver)
    assert unavailable(seen, "20")
    assert f"``{said}``" in table
    assert len(cloud.queries) == 1


def test_nobody_is_nobody(cloud, neutron, ask):
    """An empty list is an answer: 404."""
    cloud.ports = ()
    seen, said = ask(neutron())
    assert seen.status_int == 404
    assert said.endswith("no port of an instance")


def test_pages_that_come_slowly_do_not_add_up(peers, neutron):
    """The budget is one for the whole resolve, however many queries that takes."""
    cloud = Cloud(peers)
    numbers = iter(range(10_000))

    def slow(conversation):
        conversation.peer.closing.wait(0.15)
        link = {"rel": "next", "href": f"?marker={next(numbers)}"}
        conversation.send(answer({"ports": [], "ports_links": [link]}))

    cloud.neutron_faults.always = slow
    began = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer in time"):
        neutron(cloud, **QUICK).resolve(ADA)
    assert 0.5 < time.monotonic() - began < 10
