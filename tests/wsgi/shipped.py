"""The shipped configuration, set up in a folder of the test."""

import re
import shutil
from pathlib import Path
from wsgiref.validate import validator

from guest import environ, send
from peers import Conversation

from mdmw.wsgi.pipelines import stages

ETC = Path(__file__).parents[2] / "etc"
LISTENER = "169.254.169.254:80"
BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
GREEN = "c47e0d96-2b81-4a3f-8f57-e09d6c1a5b74"
SECRET = "a secret of the test"
#: The filters that each pipeline begins with.
OBSERVERS = re.findall("pipeline = (.*) identify-guest", (ETC / "api-paste.ini").read_text())[0]


def install(folder: Path) -> Path:
    """Copy the files as an operator would, with sockets and state in `folder`; returns the ini file."""
    for name in ("api-paste.ini", "inventory.yaml", "listeners.json", "admin.conf"):
        shutil.copy(ETC / name, folder / name)
    (folder / "shared-secret").write_text(f"{SECRET}\n")
    ini = folder / "api-paste.ini"
    text = ini.read_text().replace("run = /run/mdmw", f"run = {folder}")
    ini.write_text(text.replace("state = /var/lib/mdmw", f"state = {folder}"))
    assert "/run/mdmw" not in ini.read_text().partition("[pipeline")[0].partition("[DEFAULT]")[2]
    return ini


def edit(ini: Path, *edits: tuple[str, str]) -> str:
    """Replace text in an ini file; each must be there."""
    text = ini.read_text()
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    ini.write_text(text)
    return str(ini)


def assemble(ini: Path, pipeline: str):
    """The pipeline with `wsgiref.validate` in front of and behind every stage, and its stages."""
    *filters, app = [stage.create() for stage in stages(str(ini), pipeline)]
    whole = validator(app)
    for make in reversed(filters):
        whole = validator(make(whole))
    return whole, app


def server(app):
    """A script of a peer: serves `app` over HTTP, one request after the other."""

    def script(conversation: Conversation) -> None:
        while received := conversation.request():
            headers = [pair for pair in received.headers if pair[0].lower() != "content-length"]
            made = environ(received.method, received.target, headers, received.body, peer="")
            reply = send(app, made)
            lines = [f"HTTP/1.1 {reply.line}", *(f"{name}: {value}" for name, value in reply.headers)]
            conversation.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + reply.body)

    return script
