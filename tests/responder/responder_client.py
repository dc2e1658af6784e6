"""The responder on the shipped sample, driven in process and under the WSGI validator."""

import io
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from wsgiref.validate import validator

from mdmw.inventory.file import load
from mdmw.records import INSTANCE, SOURCE, Instance
from mdmw.reloading import ReloadingFile
from mdmw.responder.app import Library, Responder
from mdmw.responder.passwords import PasswordsInMemory

SAMPLE = Path(__file__).parents[2] / "etc" / "inventory.yaml"
GUESTS = {guest.name: guest for guest in load(SAMPLE).instances}


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def type(self):
        return self.headers["Content-Type"]


class Client:
    """Asks as one guest after another; every exchange is checked against PEP 3333."""

    def __init__(self, app):
        self.app = app
        self._checked = validator(app)

    def __call__(self, path, method="GET", body=b"", guest="Blue One", peer="192.0.2.1", **environ):
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": "",
            "QUERY_STRING": "",
            "REQUEST_URI": path,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": peer,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            **({"CONTENT_LENGTH": str(len(body))} if body else {}),
            **environ,
        }
        if guest is not None and INSTANCE not in environ:
            known = GUESTS[guest]
            environ[INSTANCE] = Instance(known.id, known.project_id, "port")
        source = environ.pop("source", None)
        if source:
            environ[SOURCE] = source
        seen = []
        result = self._checked(environ, lambda *args: seen.append(args) or (lambda data: None))
        body = b"".join(result)
        result.close()
        status, headers = seen[0][:2]
        names = dict(headers)
        assert len(names) == len(headers)
        if method != "HEAD":
            assert names["Content-Length"] == str(len(body))
        return Answer(int(status[:3]), names, body)


def library(path=SAMPLE, dhcp_domain="novalocal", network_data_type="application/json"):
    return ReloadingFile(
        str(path), lambda path: Library(load(path), dhcp_domain, network_data_type), interval=0
    )


def client(path=SAMPLE, passwords=None, tokens=None, today=date(2026, 1, 1), **settings):
    store = passwords or PasswordsInMemory()
    return Client(Responder(library(path, **settings), store, tokens, lambda: today))
