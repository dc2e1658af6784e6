"""A guest: calls a WSGI application as a server would, through `wsgiref.validate`."""

import io
import socket
from dataclasses import dataclass
from wsgiref.validate import validator

#: What `ServerSide` offers as the address of a guest.
ADDRESS = "10.0.0.5"


@dataclass
class Reply:
    """What the guest got."""

    status: int
    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name):
        values = self.values(name)
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else None


def environ(method="GET", target="/", headers=(), body=b"", peer=ADDRESS, **more):
    """The environ that a server makes of a request: names folded, duplicates joined."""
    path, _, query = target.partition("?")
    made = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "RAW_URI": target,
        "SERVER_NAME": "169.254.169.254",
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
    }
    if body or method in ("POST", "PUT"):
        made["CONTENT_LENGTH"] = str(len(body))
    for name, value in headers:
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        made[key] = f"{made[key]},{value}" if key in made else value
    return made | more


def call(app, *args, validate=True, **kwargs):
    """The reply to a request with `environ(*args, **kwargs)`, read whole and closed."""
    return send(app, environ(*args, **kwargs), validate)


def send(app, made, validate=True):
    """The reply to a ready-made environ."""
    began = []

    def start_response(line, headers, exc_info=None):
        began[:] = [line, list(headers)]
        return lambda data: None

    chunks = (validator(app) if validate else app)(made, start_response)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    line, headers = began
    reply = Reply(int(line[:3]), line, headers, body)
    length = reply.value("Content-Length")
    assert length is None or made.get("REQUEST_METHOD") == "HEAD" or int(length) == len(body)
    return reply


class Seen:
    """The end of a pipeline: remembers each environ and says 200."""

    def __init__(self):
        self.environs = []

    def __call__(self, made, start_response):
        self.environs.append(dict(made))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [b"seen"] if made["REQUEST_METHOD"] != "HEAD" else []

    @property
    def last(self):
        return self.environs[-1]


def connected(listen_on=("127.0.0.1", 0)):
    """Both ends of a TCP connection, the server's first; and the listener."""
    family = socket.AF_INET6 if ":" in listen_on[0] else socket.AF_INET
    with socket.create_server(listen_on, family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        return listener.accept()[0], client
