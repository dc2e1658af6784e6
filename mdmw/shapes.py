"""Shapes: what a value that another process wrote may look like, as JSON has it.

A shape is a function that takes a value and its place in the whole, for messages. The function returns the
value that may be used, or raises ValueError, which says the place, and what is allowed there.
"""

from collections.abc import Callable
from typing import Any

#: See the docstring of the module.
Shape = Callable[[Any, str], Any]

_LONGEST_TEXT = 10_000  # characters
_MOST_ENTRIES = 1_000_000  # of a list or mapping
_LARGEST = 2**63
END_OF_TIME = 253_402_300_799  # seconds since 1970: the end of the year 9999


def text(value: Any, where: str) -> str:
    """A text of bounded length."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(f"{where}: only a text of at most {_LONGEST_TEXT} characters is allowed")
    return value


def flag(value: Any, where: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{where}: only true or false is allowed")  # noqa: TRY004 - as the other checks
    return value


def whole(value: Any, where: str) -> int:
    """A whole number that is not negative and fits in 63 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST:
        raise ValueError(f"{where}: only a whole number from 0 to 2^63 is allowed")
    return value


def number(least: float, most: float) -> Shape:
    """A number from `least` to `most`; never NaN or infinite."""

    def check(value: Any, where: str) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:  # not so for NaN either
            raise ValueError(f"{where}: only a number from {least:g} to {most:g} is allowed")
        return float(value)

    return check


def exactly(*allowed: Any) -> Shape:
    """One of these values, of the same type."""

    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise ValueError(f"{where}: only {' or '.join(map(str, allowed))} is allowed")
        return value

    return check


def or_null(shape: Shape) -> Shape:
    """null, or a value of `shape`."""
    return lambda value, where: None if value is None else shape(value, where)


def list_of(shape: Shape, length: int | None = None) -> Shape:
    """A list of values of `shape`, of `length` values if that is given."""

    def check(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > _MOST_ENTRIES:
            raise ValueError(f"{where}: only a list is allowed")
        if length is not None and len(value) != length:
            raise ValueError(f"{where}: only a list of {length} values is allowed")
        return [shape(one, f"{where}[{number}]") for number, one in enumerate(value)]

    return check


def map_of(shape: Shape) -> Shape:
    """An object with any names, and values of `shape`."""

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > _MOST_ENTRIES:
            raise ValueError(f"{where}: only an object is allowed")
        return {text(name, where): shape(one, f"{where}.{name}") for name, one in value.items()}

    return check


def record(**fields: Shape) -> Shape:
    """An object with these fields; fields that this version of mdmw does not know are left out."""

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: only an object is allowed")  # noqa: TRY004 - as the other checks
        for name in fields:
            if name not in value:
                raise ValueError(f"{where}: the field {name!r} is missing")
        return {name: shape(value[name], f"{where}.{name}") for name, shape in fields.items()}

    return check
