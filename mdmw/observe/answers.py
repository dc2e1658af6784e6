"""The answers that a serving process gives over its introspection socket, checked to the last field.

A serving process talks to guests, so its answer is not trusted. `checked_answer` makes a new value from the
answer: each field has the type and the bounds that this module states, and each text is printable.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mdmw.observe.counters import BOUNDS
from mdmw.wire import printable

#: Takes a value and its place in the answer; returns the value that may be used, or raises ValueError.
Shape = Callable[[Any, str], Any]

_LONGEST_TEXT = 10_000  # characters
_MOST_ENTRIES = 1_000_000  # of a list or mapping
_LARGEST = 2**63
_END_OF_TIME = 253_402_300_799  # seconds since 1970: the end of the year 9999
_MOST_SECONDS = 1e12


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(f"{where}: only a text of at most {_LONGEST_TEXT} characters is allowed")
    return printable(value)


def _some_text(value: Any, where: str) -> str:
    if not _text(value, where).strip():
        raise ValueError(f"{where}: an empty text is not allowed")
    return printable(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where}: only true or false is allowed")  # noqa: TRY004 - as the other checks
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST:
        raise ValueError(f"{where}: only a whole number from 0 to 2^63 is allowed")
    return value


def _number(least: float, most: float) -> Shape:
    def check(value: Any, where: str) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:  # not so for NaN either
            raise ValueError(f"{where}: only a number from {least:g} to {most:g} is allowed")
        return float(value)

    return check


def _exactly(*allowed: Any) -> Shape:
    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise ValueError(f"{where}: only {' or '.join(map(str, allowed))} is allowed")
        return value

    return check


def _or_null(shape: Shape) -> Shape:
    return lambda value, where: None if value is None else shape(value, where)


def _list_of(shape: Shape, length: int | None = None) -> Shape:
    def check(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > _MOST_ENTRIES:
            raise ValueError(f"{where}: only a list is allowed")
        if length is not None and len(value) != length:
            raise ValueError(f"{where}: only a list of {length} values is allowed")
        return [shape(one, f"{where}[{number}]") for number, one in enumerate(value)]

    return check


def _map_of(shape: Shape) -> Shape:
    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > _MOST_ENTRIES:
            raise ValueError(f"{where}: only an object is allowed")
        return {_text(name, where): shape(one, f"{where}.{name}") for name, one in value.items()}

    return check


def _record(**fields: Shape) -> Shape:
    """Fields that this version of mdmw does not know are left out."""

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: only an object is allowed")  # noqa: TRY004 - as the other checks
        for name in fields:
            if name not in value:
                raise ValueError(f"{where}: the field {name!r} is missing")
        return {name: shape(value[name], f"{where}.{name}") for name, shape in fields.items()}

    return check


def _scope(value: Any, where: str) -> list[str]:
    kind, id_ = _list_of(_text, 2)(value, where)
    return [_exactly("network", "router")(kind, f"{where}[0]"), id_]


_time = _number(0, _END_OF_TIME)
_seconds = _number(0, _MOST_SECONDS)
_signed_seconds = _number(-_MOST_SECONDS, _MOST_SECONDS)
_instance = _record(id=_text, project_id=_text, port_id=_text)

#: Question -> shape of the answer.
_SHAPES: Mapping[str, Shape] = {
    "process": _record(pid=_whole, threads=_whole, memory=_whole),
    "checks": _map_of(_record(ok=_flag, text=_text, seconds=_seconds, at=_time)),
    "counters": _record(
        since=_time,
        bounds=_exactly(list(BOUNDS)),
        scopes=_list_of(
            _record(
                scope=_or_null(_scope),
                count=_whole,
                statuses=_map_of(_whole),
                seconds=_seconds,
                slowest=_seconds,
                durations=_list_of(_whole, len(BOUNDS) + 1),
                first=_time,
                last=_time,
            )
        ),
    ),
    "recent": _list_of(
        _record(
            time=_time,
            request_id=_text,
            address=_or_null(_text),
            scope=_or_null(_scope),
            instance=_or_null(_text),
            project=_or_null(_text),
            method=_text,
            path=_text,
            status=_whole,
            bytes=_whole,
            seconds=_seconds,
            stages=_map_of(_seconds),
            cache=_text,
            error=_text,
            notes=_map_of(_whole),
        )
    ),
    "resolve": _record(
        instance=_or_null(_instance),
        reason=_text,
        cache=_text,
        calls=_whole,
        seconds=_seconds,
        resolver=_text,
    ),
    "cache": _record(
        answers=_list_of(
            _record(
                mac=_or_null(_text),
                instance=_or_null(_instance),
                reason=_text,
                age=_signed_seconds,
                expires_in=_signed_seconds,
                idle=_signed_seconds,
                sure=_flag,
            )
        ),
        snapshot=_or_null(
            _record(age=_signed_seconds, ports=_whole, instance=_or_null(_instance), reason=_text)
        ),
    ),
    "purge": _record(dropped=_whole, shared=_flag),
    "reload": _record(reloads=_flag, text=_text, told=_list_of(_whole)),
}
_ERROR = _record(error=_some_text, text=_some_text)


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
