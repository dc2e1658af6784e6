"""A journal as one line, JSON or text. Nothing that a guest wrote can end the line or add a field."""

import re
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from time import gmtime, strftime
from urllib.parse import unquote_to_bytes

from mdmw.observe.journal import Journal
from mdmw.wire import ABSOLUTE

#: Most characters of a path, an id and a method; a line is then shorter than PIPE_BUF, 4096 bytes,
#: so that lines of several processes do not mix in a pipe.
MOST_OF_PATH, MOST_OF_ID, MOST_OF_METHOD = 200, 40, 20

_PLAIN = re.compile(r"[!#-,.-\[\]-~][!#-\[\]-~]*")  # a word that needs no quotes, and is not "-"

Line = Callable[[Journal], str]


def json_line(journal: Journal) -> str:
    """One JSON object; what there is not is absent. Times are milliseconds."""
    source, instance, target = journal.source, journal.instance, journal.target
    fields = [f'{{"time":"{_time(journal.time)}","request_id":"{journal.request_id}"']
    if journal.trace:
        fields.append(f'"trace_id":"{journal.trace.trace_id}"')
    if source:
        scope = source.scope
        fields.append(f'"address":{quoted(source.address)},"{scope.kind}":{quoted(scope.id[:MOST_OF_ID])}')
    elif journal.peer:
        fields.append(f'"address":{quoted(journal.peer[:MOST_OF_ID])}')
    if instance:
        fields.append(f'"instance":{quoted(instance.id[:MOST_OF_ID])}')
    fields.append(f'"method":{quoted(journal.method[:MOST_OF_METHOD])},"path":{_path(target)}')
    if "?" in target:
        fields.append('"query":true')
    stages = ",".join([f'"{stage}":{seconds * 1000:.3f}' for stage, seconds in journal.stages.items()])
    fields.append(
        f'"status":{journal.status},"bytes":{journal.sent},"ms":{journal.seconds * 1000:.3f},'
        f'"stages":{{{stages}}}'
    )
    if journal.cache:
        fields.append(f'"cache":"{journal.cache}"')
    if journal.error:
        fields.append(f'"error":"{journal.error}"')
    if journal.notes:
        notes = ",".join([f'"{note}":{number}' for note, number in journal.notes.items()])
        fields.append(f'"notes":{{{notes}}}')
    return ",".join(fields) + "}\n"


def text_line(journal: Journal) -> str:
    """Ten columns, `-` for what there is not, then `name=value`. Times are milliseconds."""
    source, instance, target = journal.source, journal.instance, journal.target
    if source:
        who = f"{source.address} {source.scope.kind}/{_word(source.scope.id[:MOST_OF_ID])}"
    else:
        who = f"{_word(journal.peer[:MOST_OF_ID])} -"
    columns = [
        f"{_time(journal.time)} {journal.request_id} {who}"
        f" {_word(instance.id[:MOST_OF_ID]) if instance else '-'}"
        f" {_word(journal.method[:MOST_OF_METHOD])} {_path(target)}"
        f" {journal.status} {journal.sent} {journal.seconds * 1000:.3f}",
        *[f"{stage}={seconds * 1000:.3f}" for stage, seconds in journal.stages.items()],
    ]
    if journal.cache:
        columns.append(f"cache={journal.cache}")
    if journal.error:
        columns.append(f"error={journal.error}")
    if journal.notes:
        columns += [f"{note}={number}" for note, number in journal.notes.items()]
    if "?" in target:
        columns.append("query=yes")
    if journal.trace:
        columns.append(f"trace={journal.trace.trace_id}")
    return " ".join(columns) + "\n"


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


def _path(target: str) -> str:
    """Quoted. Cut before it is remembered, too."""
    return _quoted_path(target.partition("?")[0][: MOST_OF_PATH + 1])


# Guests ask for the same few things again and again.


@lru_cache(maxsize=1024)
def _quoted_path(path: str) -> str:
    return quoted(path_of(path))


@lru_cache(maxsize=1024)
def _word(text: str) -> str:
    if not text:
        return "-"
    return text if _PLAIN.fullmatch(text) else quoted(text)


def _time(seconds: float) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    milliseconds = int(seconds * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))
