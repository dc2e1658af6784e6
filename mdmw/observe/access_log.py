"""A journal as one line, JSON or text. Nothing that a guest wrote can end the line or add a field."""

import os
import re
import select
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from time import gmtime, strftime
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from mdmw.observe.journal import Journal
from mdmw.wire import ABSOLUTE

#: Most characters of a path, an id and a method; a line is then shorter than PIPE_BUF, 4096 bytes,
#: so that lines of several processes do not mix in a pipe.
MOST_OF_PATH, MOST_OF_ID, MOST_OF_METHOD = 200, 40, 20
_MOST_WAITING = 20_000  # lines; a destination that is stuck must not fill the memory

_PLAIN = re.compile(r"[!#-,.-\[\]-~][!#-\[\]-~]*")  # a word that needs no quotes, and is not "-"


class Form(NamedTuple):
    """How a line of the access log looks. Each part is ASCII; durations are milliseconds.

    `template` makes, for the names of the stages, a `%` template that takes: second, millisecond, request
    id, guest, question, status, bytes, duration, one duration for each stage, rest.
    """

    template: Callable[[tuple[str, ...]], str]
    guest: Callable[[str, str, str, str], str]  # of address, kind and id of the scope, id of the instance
    question: Callable[[str, str], str]  # of method, and target without query
    rest: Callable[[str, str, bool, str, tuple[tuple[str, int], ...]], str]
    """The end of a line, made of cache, error, presence of a query, trace id and notes; "" without these."""


def line_of(form: Form, journal: Journal) -> str:
    """The line of one request, with its end."""
    source, trace, stages = journal.source, journal.trace, journal.stages
    instance_id = journal.instance.id if journal.instance else ""
    if source is None:
        guest = form.guest(journal.peer, "", "", instance_id)
    else:
        guest = form.guest(source.address, source.scope.kind, source.scope.id, instance_id)
    path, query, _ = journal.target.partition("?")
    second, millisecond = divmod(int(journal.time * 1000), 1000)
    return form.template(tuple(stages)) % (
        _second(second),
        millisecond,
        journal.request_id,
        guest,
        form.question(journal.method[:MOST_OF_METHOD], path[: MOST_OF_PATH + 1]),
        journal.status,
        journal.sent,
        journal.seconds * 1000,
        *[seconds * 1000 for seconds in stages.values()],
        form.rest(
            journal.cache,
            journal.error,
            bool(query),
            trace.trace_id if trace else "",
            tuple(journal.notes.items()),
        ),
    )


def path_of(target: str) -> str:
    """The path of a request target for people: decoded, without query and authority, cut when long."""
    path = target.partition("?")[0]
    if not path.startswith("/") and (absolute := ABSOLUTE.match(path)):
        path = path[absolute.end() :]
    if len(path) > MOST_OF_PATH:
        path = path[: MOST_OF_PATH - 3] + "..."
    if "%" in path or not path.isascii():
        decoded = unquote_to_bytes(path.encode("latin-1", "backslashreplace"))
        return decoded.decode("utf-8", "backslashreplace")
    return path


# --- parts that many lines have in common: guests ask for the same few things again and again ------------


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


@lru_cache(maxsize=1024)
def _json_guest(address: str, kind: str, scope_id: str, instance_id: str) -> str:
    fields = (("address", address), (kind, scope_id), ("instance", instance_id))
    return "".join([f',"{name}":{quoted(value[:MOST_OF_ID])}' for name, value in fields if value])


@lru_cache(maxsize=1024)
def _text_guest(address: str, kind: str, scope_id: str, instance_id: str) -> str:
    scope = f"{kind}/{_word(scope_id)}" if kind else "-"
    return f" {_word(address)} {scope} {_word(instance_id)}"


@lru_cache(maxsize=1024)
def _json_question(method: str, path: str) -> str:
    return f',"method":{quoted(method)},"path":{quoted(path_of(path))}'


@lru_cache(maxsize=1024)
def _text_question(method: str, path: str) -> str:
    return f" {_word(method)} {quoted(path_of(path))}"


@lru_cache(maxsize=1024)
def _json_rest(cache: str, error: str, query: bool, trace_id: str, notes: tuple[tuple[str, int], ...]) -> str:
    fields = (("trace_id", trace_id), ("cache", cache), ("error", error))
    rest = ',"query":true' if query else ""
    rest += "".join([f',"{name}":{quoted(value)}' for name, value in fields if value])
    if notes:
        rest += ',"notes":{' + ",".join([f'"{note}":{number}' for note, number in notes]) + "}"
    return rest


@lru_cache(maxsize=1024)
def _text_rest(cache: str, error: str, query: bool, trace_id: str, notes: tuple[tuple[str, int], ...]) -> str:
    fields = (
        *(("cache", cache), ("error", error and _word(error))),
        *[(note, str(number)) for note, number in notes],
        *(("query", "yes" if query else ""), ("trace", trace_id)),
    )
    return "".join([f" {name}={value}" for name, value in fields if value])


def _word(text: str) -> str:
    text = text[:MOST_OF_ID]
    if not text:
        return "-"
    return text if _PLAIN.fullmatch(text) else quoted(text)


@lru_cache(maxsize=256)
def _json_template(stages: tuple[str, ...]) -> str:
    times = ",".join([f"{_literal(quoted(stage))}:%.3f" for stage in stages])
    head = '{"time":"%s.%03dZ","request_id":"%s"%s%s,"status":%d,"bytes":%d,"ms":%.3f,"stages":{'
    return f"{head}{times}}}%s}}\n"


@lru_cache(maxsize=256)
def _text_template(stages: tuple[str, ...]) -> str:
    times = "".join([f" {_literal(stage)}=%.3f" for stage in stages])
    return f"%s.%03dZ %s%s%s %d %d %.3f{times}%s\n"


def _literal(text: str) -> str:
    return text.replace("%", "%%")


#: One JSON object for each request; what is not known is absent.
JSON = Form(_json_template, _json_guest, _json_question, _json_rest)
#: Ten columns for each request, `-` for what is not known, then `name=value`.
TEXT = Form(_text_template, _text_guest, _text_question, _text_rest)


# --- where lines go -------------------------------------------------------------------------------------


_STDERR = 2
_OWNER_AND_GROUP = 0o640


def to_stderr(lines: bytes) -> None:
    """Write lines; those of several processes do not mix in one pipe. Raises OSError."""
    done = 0
    while done < len(lines):
        end = lines.rfind(b"\n", done, done + select.PIPE_BUF) + 1 or len(lines)
        _write(_STDERR, lines[done:end])
        done = end


class AppendedFile:
    """A file that is made when it is not there, and opened anew when it was moved or removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._is_torn = False

    def __call__(self, lines: bytes) -> None:
        """Append lines. Raises OSError."""
        descriptor = self._open()
        try:
            _write(descriptor, b"\n" + lines if self._is_torn else lines)
        except OSError:
            self._is_torn = True  # the disk may have been full in the middle of a line
            raise
        self._is_torn = False

    def _open(self) -> int:
        if self._descriptor is not None:
            if self._is_in_place(self._descriptor):
                return self._descriptor
            os.close(self._descriptor)
            self._descriptor = None
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _OWNER_AND_GROUP)
        return self._descriptor

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))


def _write(descriptor: int, text: bytes) -> None:
    data = memoryview(text)
    while data:
        data = data[os.write(descriptor, data) :]
