"""The admin application, called by operators of different kinds."""

import json

from guest import call

from mdmw.admin.app import app_factory
from mdmw.admin.policy import OPERATOR, Operator


def operator(*roles, scope=None, name="ada"):
    """Somebody with these roles; `scope` is `all` for a token of the whole system."""
    credentials = {"roles": list(roles), "system_scope": scope, "user_id": "u-1", "project_id": "p-1"}
    return Operator(name, "u-1", "p-1", credentials)


ADMIN = operator("admin")
READER = operator("reader", scope="all", name="rita")
TENANT = operator("member", "reader", name="tom")


class Api:
    """The application of a section with these options."""

    def __init__(self, **options):
        self.app = app_factory({}, **{name: str(value) for name, value in options.items()})

    def ask(self, method, target, document=None, headers=(), by=ADMIN, body=None):
        """The reply, and the JSON in it, which has its id if it is an error."""
        given = list(headers)
        if document is not None:
            body = json.dumps(document).encode()
        if body is not None and not any(name == "Content-Type" for name, _ in given):
            given.append(("Content-Type", "application/json"))
        reply = call(self.app, method, target, given, body or b"", **{OPERATOR: by})
        said = json.loads(reply.body) if reply.body else None
        request_id = reply.value("X-Openstack-Request-Id")
        assert request_id.startswith("req-")
        if reply.status >= 400 and said:
            error = said["error"]
            assert set(error) == {"code", "title", "message", "request_id"}
            assert (error["code"], error["request_id"]) == (reply.status, request_id)
            assert error["title"] == reply.line[4:]
        return reply, said
