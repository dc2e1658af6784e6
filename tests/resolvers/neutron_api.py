"""A small Keystone v3 and Neutron on real sockets, which do as told when told to misbehave.

Each serves any number of connections, and keeps them open. `cloud.keystone` and `cloud.neutron`
are peers that keep what they received.
"""

import datetime
import itertools
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from peers import Conversation, Peer, Peers, Received, response

from mdmw.options import load
from mdmw.resolvers.contract import Port
from mdmw.resolvers.neutron import NeutronResolver
from mdmw.testing.resolvers import WORLD, World

PASSWORD = "correct horse$$ battery staple"  # as it is written in a file
USER, PROJECT, REGION = "mdmw", "service", "RegionTwo"

#: Told after a request was read; what it does not say is not said.
Act = Callable[[Conversation], None]


@dataclass
class Faults:
    """What a service does instead of its work: one act for each of the next requests."""

    acts: deque[Act] = field(default_factory=deque)
    always: Act | None = None

    def next(self) -> Act | None:
        return self.acts.popleft() if self.acts else self.always


class Cloud:
    """Keystone and Neutron. Change the attributes to change the cloud."""

    def __init__(self, peers: Peers, world: World = WORLD, tls: ssl.SSLContext | None = None) -> None:
        self.ports: Sequence[Port] = world.ports
        self.token_life = 3600.0  # seconds
        self.longest_target = 8192  # bytes; what is longer is refused
        self.refusal = response("414 URI Too Long", b"<html>")
        self.page = 1000  # ports, however many are asked for
        self.interfaces = {"public", "internal", "admin"}
        self.keystone_faults, self.neutron_faults = Faults(), Faults()
        self.tokens: list[str] = []  # in the order in which they were given
        self.revoked: set[str] = set()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self.keystone = peers.tcp(self._serve(self._answer_of_keystone, self.keystone_faults), tls=tls)
        self.neutron = peers.tcp(self._serve(self._answer_of_neutron, self.neutron_faults), tls=tls)

    @property
    def auth_url(self) -> str:
        return str(self.keystone.address)

    @property
    def queries(self) -> list[str]:
        """The targets that Neutron was asked for."""
        return [request.target for request in self.neutron.requests]

    def revoke(self) -> None:
        """Every token so far, as when Keystone has new keys."""
        self.revoked.update(self.tokens)

    def group(self, **more: str) -> dict[str, str]:
        """A good `[neutron]` group."""
        return {
            "auth_type": "password",
            "auth_url": self.auth_url,
            "username": USER,
            "password": PASSWORD,
            "user_domain_name": "Default",
            "project_name": PROJECT,
            "project_domain_name": "Default",
            "region_name": REGION,
        } | more

    # --- both ----------------------------------------------------------------------------

    def _serve(self, answer: Callable[[Received, Peer], bytes], faults: Faults) -> Act:
        def script(conversation: Conversation) -> None:
            while received := conversation.request():
                with self._lock:
                    act = faults.next()
                if act:
                    act(conversation)
                else:
                    conversation.send(answer(received, conversation.peer))

        return script

    # --- Keystone ------------------------------------------------------------------------

    def _answer_of_keystone(self, received: Received, peer: Peer) -> bytes:
        version = {
            "id": "v3.14",
            "status": "stable",
            "links": [{"rel": "self", "href": f"{peer.address}/v3/"}],
        }
        path = urlsplit(received.target).path.rstrip("/")
        if path == "":
            return answer({"versions": {"values": [version]}}, "300 Multiple Choices")
        if path == "/v3":
            return answer({"version": version})
        if (received.method, path) != ("POST", "/v3/auth/tokens"):
            return answer({"error": {"code": 404, "message": "not found"}}, "404 Not Found")
        wanted = json.loads(received.body)["auth"]
        user = wanted["identity"]["password"]["user"]
        domains = {user["domain"].get("name"), user["domain"].get("id")}
        who = (user["name"], user["password"], wanted["scope"]["project"]["name"])
        if who != (USER, PASSWORD.replace("$$", "$"), PROJECT) or not domains & {"Default", "default"}:
            message = f"wrong password {user['password']}"
            return answer({"error": {"code": 401, "message": message}}, "401 Unauthorized")
        with self._lock:
            token = f"secret-token-{next(self._numbers)}"
            self.tokens.append(token)
        return answer({"token": self._token()}, "201 Created", f"X-Subject-Token: {token}")

    def _token(self) -> dict:
        now = datetime.datetime.now(datetime.UTC)
        end = now + datetime.timedelta(seconds=self.token_life)
        url = f"{self.neutron.address}/"
        elsewhere = [{"interface": "public", "region_id": "RegionOne", "url": "http://192.0.2.1:9696/"}]
        here = [{"interface": name, "region_id": REGION, "url": url} for name in sorted(self.interfaces)]
        endpoints = [{"id": "e", "region": e["region_id"], **e} for e in elsewhere + here]
        return {
            "methods": ["password"],
            "issued_at": now.isoformat().replace("+00:00", "Z"),
            "expires_at": end.isoformat().replace("+00:00", "Z"),
            "user": {"id": "u", "name": USER, "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": PROJECT, "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r", "name": "admin"}],
            "catalog": [{"id": "s", "type": "network", "name": "neutron", "endpoints": endpoints}],
        }

    # --- Neutron -------------------------------------------------------------------------

    def _answer_of_neutron(self, received: Received, peer: Peer) -> bytes:
        if len(received.target) > self.longest_target:
            return self.refusal
        if received.value("X-Auth-Token") not in {*self.tokens, "notused"} - self.revoked:
            return answer(
                {"error": {"message": "The request you have made requires authentication."}}, "401 No"
            )
        path, _, text = received.target.partition("?")
        if path != "/v2.0/ports":
            return response("404 Not Found", b"The resource could not be found.")
        return answer(self._list(parse_qsl(text), str(peer.address)))

    def _list(self, query: list[tuple[str, str]], origin: str) -> dict:
        asked: dict[str, set[str]] = {}
        for name, value in query:
            asked.setdefault(name, set()).add(value)
        fields = asked.pop("fields")
        limit = min(int(asked.pop("limit").pop()), self.page)
        marker = asked.pop("marker", {""}).pop()
        found = sorted((port for port in self.ports if _fits(port, asked)), key=lambda port: port.id)
        rest = [port for port in found if port.id > marker]
        page = [{k: v for k, v in described(port).items() if k in fields} for port in rest[:limit]]
        answer = {"ports": page}
        if len(page) == limit:
            again = [(name, value) for name, value in query if name != "marker"] + [
                ("marker", page[-1]["id"])
            ]
            answer["ports_links"] = [{"rel": "next", "href": f"{origin}/v2.0/ports?{urlencode(again)}"}]
        return answer


def described(port: Port) -> dict:
    """A port in Neutron's words."""
    return {
        "id": port.id,
        "network_id": port.network_id,
        "mac_address": port.mac,
        "device_id": port.device_id,
        "device_owner": port.device_owner,
        "project_id": port.project_id,
        "tenant_id": port.project_id,
        "fixed_ips": [{"ip_address": address, "subnet_id": subnet} for address, subnet in port.fixed_ips],
        "status": "ACTIVE",
    }


def _fits(port: Port, asked: dict[str, set[str]]) -> bool:
    words = described(port)
    for name, values in asked.items():
        if name == "fixed_ips":
            if not values & {f"ip_address={address}" for address, _ in port.fixed_ips}:
                return False
        elif words[name] not in values:
            return False
    return True


# --- acts -------------------------------------------------------------------------------


def answer(body: object, status: str = "200 OK", *headers: str) -> bytes:
    """A response with JSON."""
    return response(status, json.dumps(body).encode(), "Content-Type: application/json", *headers)


def says(data: bytes) -> Act:
    """Answers with `data`."""
    return lambda conversation: conversation.send(data)


def ends_with(data: bytes) -> Act:
    """Answers with `data`, then closes."""

    def act(conversation: Conversation) -> None:
        conversation.send(data)
        raise ConnectionAbortedError

    return act


def holds(conversation: Conversation) -> None:
    """Says nothing."""
    conversation.hold()


def drips(data: bytes, interval: float) -> Act:
    """Answers with `data`, a byte at a time."""
    return lambda conversation: conversation.drip(data, interval)


# --- resolvers --------------------------------------------------------------------------


def config(path: str, group: dict[str, str], default: dict[str, str] | None = None) -> str:
    """Writes an oslo.config file with `[neutron]` and `[DEFAULT]`."""
    sections = {"DEFAULT": default or {}, "neutron": group}
    with open(path, "w") as file:
        for name, options in sections.items():
            file.write(f"[{name}]\n" + "".join(f"{option} = {value}\n" for option, value in options.items()))
    return path


def settings_of(path: str | None, kind: type = NeutronResolver, **section: str):
    """The settings that instance-resolve would give a resolver of this kind."""
    files = {"config_file": path} if path else {}
    return load("instance-resolve", kind.options, {}, files | section)


def make_resolver(path: str, **section: str) -> NeutronResolver:
    """A resolver with this file, and options of its own section."""
    return NeutronResolver(settings_of(path, **section))


def close_kept(resolver: NeutronResolver) -> None:
    """Closes the connections that a resolver keeps."""
    session = resolver._queries._get.__self__._session.session
    for upstream in session.get_adapter("http://")._upstreams.values():
        for idle in upstream._idle.values():
            while idle:
                idle.pop().close()


@pytest.fixture
def cloud(peers):
    """A Keystone and a Neutron that hold `WORLD`."""
    return Cloud(peers)


@pytest.fixture
def neutron(tmp_path, cloud):
    """Makes resolvers: a cloud (None: the one of the test), `[neutron]` options as `group`, own options.

    Closes their kept connections after the test.
    """
    made = []

    def make(of=None, group=None, **section):
        path = config(str(tmp_path / f"{len(made)}.conf"), (of or cloud).group(**(group or {})))
        made.append(make_resolver(path, **section))
        return made[-1]

    yield make
    for resolver in made:
        close_kept(resolver)
