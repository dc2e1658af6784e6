"""A small Keystone v3 on a real socket that says what tokens are worth."""

import datetime
import json
from dataclasses import dataclass, field

from peers import Conversation, Peers, Received, response

SERVICE_PASSWORD = "the service's own password"
CONF = """
[keystone_authtoken]
auth_type = password
auth_url = {url}/v3
username = mdmw
password = {password}
project_name = service
user_domain_name = Default
project_domain_name = Default
"""


@dataclass
class Keystone:
    """Tokens by their text. `faults` are answers that it gives instead of its work, while there are any."""

    tokens: dict[str, dict] = field(default_factory=dict)
    faults: list = field(default_factory=list)
    services_tokens: int = 0
    validations: int = 0

    def serve(self, peers: Peers) -> None:
        """Listen from now on."""
        self.peer = peers.tcp(self._script)
        self.url = str(self.peer.address)

    def conf(self, path, password=SERVICE_PASSWORD):
        """The file that authtoken reads."""
        path.write_text(CONF.format(url=self.url, password=password))
        return str(path)

    def issue(self, token, *roles, name="ada", system=False, life=3600.0, project="p-1"):
        """Make a token good, until it is taken out of `tokens`."""
        now = datetime.datetime.now(datetime.UTC)
        domain = {"id": "default", "name": "Default"}
        scope = (
            {"system": {"all": True}}
            if system
            else {"project": {"id": project, "name": "x", "domain": domain}}
        )
        self.tokens[token] = {
            "methods": ["password"],
            "issued_at": _time(now),
            "expires_at": _time(now + datetime.timedelta(seconds=life)),
            "user": {"id": f"u-{name}", "name": name, "domain": domain},
            "roles": [{"id": role, "name": role} for role in roles],
            "catalog": [],
            **scope,
        }
        return token

    def _script(self, conversation: Conversation) -> None:
        while received := conversation.request():
            if self.faults:
                self.faults[0](conversation)
            else:
                conversation.send(self._answer(received))

    def _answer(self, received: Received) -> bytes:
        path = received.target.partition("?")[0].rstrip("/")
        if path == "/v3":
            version = {
                "id": "v3.14",
                "status": "stable",
                "links": [{"rel": "self", "href": f"{self.url}/v3/"}],
            }
            return _json({"version": version})
        if path != "/v3/auth/tokens":
            return _json({"error": {"code": 404, "message": "not found"}}, "404 Not Found")
        if received.method == "POST":
            return self._authenticate(json.loads(received.body))
        return self._validate(received)

    def _authenticate(self, wanted: dict) -> bytes:
        if wanted["auth"]["identity"]["password"]["user"]["password"] != SERVICE_PASSWORD:
            return _json({"error": {"code": 401, "message": "no"}}, "401 Unauthorized")
        self.services_tokens += 1
        token = self.issue(f"service-{self.services_tokens}", "service", name="mdmw")
        body = self.tokens[token] | {"catalog": self._catalog()}
        return _json({"token": body}, "201 Created", f"X-Subject-Token: {token}")

    def _validate(self, received: Received) -> bytes:
        self.validations += 1
        if received.value("X-Auth-Token") not in self.tokens:
            return _json({"error": {"code": 401, "message": "no"}}, "401 Unauthorized")
        found = self.tokens.get(received.value("X-Subject-Token"))
        if found is None:
            return _json({"error": {"code": 404, "message": "no such token"}}, "404 Not Found")
        return _json({"token": found})

    def _catalog(self) -> list:
        endpoint = {
            "interface": "internal",
            "region": "R",
            "region_id": "R",
            "id": "e",
            "url": f"{self.url}/v3",
        }
        return [{"id": "k", "type": "identity", "name": "keystone", "endpoints": [endpoint]}]


def _time(when: datetime.datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def _json(body: object, status: str = "200 OK", *headers: str) -> bytes:
    return response(status, json.dumps(body).encode(), "Content-Type: application/json", *headers)
