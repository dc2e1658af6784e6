"""A journal as one line, JSON or text. Nothing that a guest wrote can end the line or add a field."""

import re
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from time import gmtime, strftime
from urllib.parse import unquote_to_bytes

from mdmw.observe.recording import Journal
from mdmw.wire import ABSOLUTE

#: Most characters of a path, an id and a method; a line is then shorter than PIPE_BUF, 4096 bytes,
#: so that lines of several processes do not mix in a pipe.
MOST_OF_PATH, MOST_OF_ID, MOST_OF_METHOD = 200, 40, 20

_PLAIN = re.compile(r"[!#-,.-\[\]-~][!#-\[\]-~]*")  # a word that needs no quotes, and is not "-"

Line = Callable[[Journal], str]


def json_line(journal: Journal) -> str:
    """One JSON object; what there is not is absent. Times are milliseconds."""
    line = _json_form(tuple(journal.stages)) % _fields(journal, _json_guest, _json_question)
    if "?" in journal.target:
        line += ',"query":true'
    if journal.trace:
        line += f',"trace_id":"{journal.trace.trace_id}"'
    if journal.cache:
        line += f',"cache":"{journal.cache}"'
    if journal.error:
        line += f',"error":"{journal.error}"'
    if journal.notes:
        notes = ",".join([f'"{note}":{number}' for note, number in journal.notes.items()])
        line += f',"notes":{{{notes}}}'
    return line + "}\n"


def text_line(journal: Journal) -> str:
    """Ten columns, `-` for what there is not, then `name=value`. Times are milliseconds."""
    line = _text_form(tuple(journal.stages)) % _fields(journal, _text_guest, _text_question)
    if journal.cache:
        line += f" cache={journal.cache}"
    if journal.error:
        line += f" error={journal.error}"
    if journal.notes:
        line += "".join([f" {note}={number}" for note, number in journal.notes.items()])
    if "?" in journal.target:
        line += " query=yes"
    if journal.trace:
        line += f" trace={journal.trace.trace_id}"
    return line + "\n"


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


def _fields(
    journal: Journal, guest: Callable[[str, str, str, str], str], question: Callable[[str, str], str]
) -> tuple[object, ...]:
    """What a form has places for."""
    source, instance = journal.source, journal.instance
    id_ = instance.id if instance else ""
    if source is None:
        who = guest(journal.peer, "", "", id_)
    else:
        who = guest(source.address, source.scope.kind, source.scope.id, id_)
    path = journal.target
    if len(path) > MOST_OF_PATH or "?" in path:
        path = path.partition("?")[0][: MOST_OF_PATH + 1]
    second, millisecond = divmod(int(journal.time * 1000), 1000)
    return (
        _second(second),
        millisecond,
        journal.request_id,
        who,
        question(journal.method[:MOST_OF_METHOD], path),
        journal.status,
        journal.sent,
        journal.seconds * 1000,
        *[seconds * 1000 for seconds in journal.stages.values()],
    )


# There are few forms, and the same guests ask for the same few things again and again.


@lru_cache(maxsize=64)
def _json_form(stages: tuple[str, ...]) -> str:
    times = ",".join(f'"{stage}":%.3f' for stage in stages)
    return f'{{"time":"%s.%03dZ","request_id":"%s"%s%s,"status":%d,"bytes":%d,"ms":%.3f,"stages":{{{times}}}'


@lru_cache(maxsize=64)
def _text_form(stages: tuple[str, ...]) -> str:
    return "%s.%03dZ %s %s %s %d %d %.3f" + "".join(f" {stage}=%.3f" for stage in stages)


@lru_cache(maxsize=1024)
def _json_guest(address: str, kind: str, scope_id: str, instance_id: str) -> str:
    fields = (("address", address), (kind, scope_id), ("instance", instance_id))
    return "".join(f',"{name}":{quoted(value[:MOST_OF_ID])}' for name, value in fields if value)


@lru_cache(maxsize=1024)
def _text_guest(address: str, kind: str, scope_id: str, instance_id: str) -> str:
    scope = f"{kind}/{_word(scope_id)}" if kind else "-"
    return f"{_word(address)} {scope} {_word(instance_id)}"


@lru_cache(maxsize=1024)
def _json_question(method: str, path: str) -> str:
    return f',"method":{quoted(method)},"path":{quoted(path_of(path))}'


@lru_cache(maxsize=1024)
def _text_question(method: str, path: str) -> str:
    return f"{_word(method)} {quoted(path_of(path))}"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


def _word(text: str) -> str:
    text = text[:MOST_OF_ID]
    if not text:
        return "-"
    return text if _PLAIN.fullmatch(text) else quoted(text)
