"""Keystone's and Neutron's REST APIs, called from inside the node's namespace by its administrator."""

from typing import Any

from keystoneauth1 import session
from keystoneauth1.identity.v3 import Password

from bench.topology import inside

from .settings import AUTH_URL, NEUTRON_PORT

NEUTRON_URL = f"http://127.0.0.1:{NEUTRON_PORT}/v2.0"
#: Of one call; many ports are made in one.
_TIMEOUT = 120


class Api:
    """What the administrator may do."""

    def __init__(self, node: str, password: str) -> None:
        self._node = node
        domain = {"user_domain_id": "default", "project_domain_id": "default"}
        auth = Password(AUTH_URL, username="admin", password=password, project_name="admin", **domain)
        self._session = session.Session(auth, timeout=_TIMEOUT)

    def keystone(self, method: str, path: str, **body: Any) -> Any:
        """Keystone's answer; raises keystoneauth1's exceptions."""
        return self._ask(method, AUTH_URL + path, body)

    def neutron(self, method: str, path: str, **body: Any) -> Any:
        """Neutron's answer; raises keystoneauth1's exceptions."""
        return self._ask(method, NEUTRON_URL + path, body)

    def _ask(self, method: str, url: str, body: dict[str, Any]) -> Any:
        with inside(self._node):
            answer = self._session.request(url, method, json=body or None)
        return answer.json() if answer.content else None
