"""The answers that a serving process gives over its introspection socket, checked to the last field.

A serving process talks to guests, so its answer is not trusted. `checked_answer` makes a new value from the
answer: each field has the type and the bounds that this module states, and each text is printable.
"""

from collections.abc import Mapping
from typing import Any

from mdmw import shapes
from mdmw.observe.counters import BOUNDS
from mdmw.shapes import END_OF_TIME, Shape, exactly, flag, list_of, map_of, number, or_null, record, whole
from mdmw.wire import printable

_MOST_SECONDS = 1e12


def _text(value: Any, where: str) -> str:
    return printable(shapes.text(value, where))


def _some_text(value: Any, where: str) -> str:
    if not _text(value, where).strip():
        raise ValueError(f"{where}: an empty text is not allowed")
    return printable(value)


def _scope(value: Any, where: str) -> list[str]:
    kind, id_ = list_of(_text, 2)(value, where)
    return [exactly("network", "router")(kind, f"{where}[0]"), id_]


_time = number(0, END_OF_TIME)
_seconds = number(0, _MOST_SECONDS)
_signed_seconds = number(-_MOST_SECONDS, _MOST_SECONDS)
_instance = record(id=_text, project_id=_text, port_id=_text)

#: Question -> shape of the answer.
_SHAPES: Mapping[str, Shape] = {
    "process": record(pid=whole, threads=whole, memory=whole),
    "checks": map_of(record(ok=flag, text=_text, seconds=_seconds, at=_time)),
    "counters": record(
        since=_time,
        bounds=exactly(list(BOUNDS)),
        scopes=list_of(
            record(
                scope=or_null(_scope),
                count=whole,
                statuses=map_of(whole),
                seconds=_seconds,
                slowest=_seconds,
                durations=list_of(whole, len(BOUNDS) + 1),
                first=_time,
                last=_time,
            )
        ),
    ),
    "recent": list_of(
        record(
            time=_time,
            request_id=_text,
            address=or_null(_text),
            scope=or_null(_scope),
            instance=or_null(_text),
            project=or_null(_text),
            method=_text,
            path=_text,
            status=whole,
            bytes=whole,
            seconds=_seconds,
            stages=map_of(_seconds),
            cache=_text,
            error=_text,
            notes=map_of(whole),
        )
    ),
    "resolve": record(
        instance=or_null(_instance),
        reason=_text,
        cache=_text,
        calls=whole,
        seconds=_seconds,
        resolver=_text,
    ),
    "cache": record(
        answers=list_of(
            record(
                mac=or_null(_text),
                instance=or_null(_instance),
                reason=_text,
                age=_signed_seconds,
                expires_in=_signed_seconds,
                idle=_signed_seconds,
                sure=flag,
            )
        ),
        snapshot=or_null(record(age=_signed_seconds, ports=whole, instance=or_null(_instance), reason=_text)),
    ),
    "purge": record(dropped=whole, shared=flag),
    "reload": record(reloads=flag, text=_text, told=list_of(whole)),
}
_ERROR = record(error=_some_text, text=_some_text)


def checked_message(question: str, message: Any) -> tuple[Any, str, str]:
    """The answer to `question`; or None, and class name and text of the error that the process raised.

    Raises ValueError with the place of the first mistake. The answer to a question that mdmw does not have,
    but a filter of another package, is not checked.
    """
    if isinstance(message, dict) and "error" in message:
        error = _ERROR(message, "error")
        return None, error["error"], error["text"]
    if not isinstance(message, dict) or "answer" not in message:
        raise ValueError("only an object with an answer or an error is allowed")
    shape = _SHAPES.get(question)
    return message["answer"] if shape is None else shape(message["answer"], question), "", ""
