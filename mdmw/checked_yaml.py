"""Strict reading of YAML and JSON: every value is checked, and every error names its place.

A *check* is a function that takes a `Node` and returns a value. It raises `ConfigError` with one line:
file, line, place in the document, what is wrong, what is allowed. `list_of`, `map_of` and `record` make
checks from smaller checks. A key whose value is null counts as absent.
"""

import base64
import binascii
import inspect
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mdmw.errors import ConfigError

T = TypeVar("T")

_MAX_BYTES = 64 * 1024 * 1024
_MAX_DEPTH = 50  # libyaml recurses in C, and has no limit
_MAX_BITS = 1024  # Python refuses to write a number of more than 4300 digits as text
_SHOWN = 60
_TAG = "tag:yaml.org,2002:"
_KINDS = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "timestamp": "a date",
    "seq": "a list",
    "map": "a mapping",
}
_WORD = re.compile(r"\w+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTRUCTOR: Any = yaml.constructor.SafeConstructor()
_NUMBERS = {
    "int": _CONSTRUCTOR.construct_yaml_int,
    "float": _CONSTRUCTOR.construct_yaml_float,
    "bool": _CONSTRUCTOR.construct_yaml_bool,
}


class Node:
    """One value of a document, and its place. `file` is None for a value from JSON, which has no lines."""

    __slots__ = ("_at", "_raw", "file", "where")

    def __init__(
        self, raw: yaml.Node, file: Path | None, where: str = "", key: yaml.Node | None = None
    ) -> None:
        self._raw = raw
        self._at = key or raw
        self.where = where
        self.file = file

    def error(self, problem: str) -> ConfigError:
        """The error for this value. `problem` says what is wrong and what is allowed."""
        line = f"{self.file}:{self._at.start_mark.line + 1}: " if self.file else ""
        return ConfigError(_one_line(f"{line}{self.where or 'the document'}: {problem}"))

    @property
    def kind(self) -> str:
        """`str`, `int`, `float`, `bool`, `null`, `timestamp`, `seq`, `map` or a foreign tag."""
        return self._raw.tag.removeprefix(_TAG)

    def wanted(self, what: str) -> ConfigError:
        """The error for a value of the wrong kind; `what` is what is allowed."""
        found = _KINDS.get(self.kind, self.kind)
        hint = "; put it in quotes" if what == "text" and isinstance(self._raw, yaml.ScalarNode) else ""
        return self.error(f"{found} is not allowed here, {what} is{hint}")

    def scalar(self, what: str) -> str:
        """The characters of a scalar as in the file, also where YAML reads a number or a date."""
        if not isinstance(self._raw, yaml.ScalarNode) or self.kind == "null" or self.kind not in _KINDS:
            raise self.wanted(what)
        text: str = self._raw.value
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.error("half a surrogate pair is not allowed in text") from None
        return text

    def number(self) -> Any:
        """The value of a YAML number or boolean."""
        try:
            return _NUMBERS[self.kind](self._raw)
        except (ValueError, ArithmeticError, LookupError, yaml.YAMLError):
            # For example !!int in front of text.
            raise self.error("not a usable number") from None

    def items(self) -> "list[Node]":
        """The elements of a list."""
        if not isinstance(self._raw, yaml.SequenceNode) or self.kind != "seq":
            raise self.wanted("a list")
        return [Node(raw, self.file, f"{self.where}[{i}]") for i, raw in enumerate(self._raw.value)]

    def fields(self) -> "dict[str, Node]":
        """The values of a mapping by key. A key that is not text, or that is there twice, is an error."""
        if not isinstance(self._raw, yaml.MappingNode) or self.kind != "map":
            raise self.wanted("a mapping")
        found: dict[str, Node] = {}
        for raw_key, raw in self._raw.value:
            key = Node(raw_key, self.file, f"a key of {self.where or 'the document'}")
            if key.kind != "str":
                raise key.wanted("text")
            name = key.scalar("text")
            step = name if _WORD.fullmatch(name) else shown(name)
            where = f"{self.where}.{step}" if self.where else step
            if name in found:
                raise Node(raw_key, self.file, where).error("the key is there twice; once is allowed")
            found[name] = Node(raw, self.file, where, raw_key)
        return found

    def at(self, *steps: str | int) -> "Node":
        """The value that these keys and indices lead to, or the deepest one that exists."""
        node = self
        for step in steps:
            node = node.items()[step] if isinstance(step, int) else node.fields().get(step, node)
        return node


Check = Callable[[Node], T]
#: Keys and indices that lead from one value to another.
Steps = tuple[str | int, ...]
At = Callable[..., Node]


def read(path: Path, check: Callable[[Node], T]) -> T:
    """The content of a file, as `check` returns it; raises `ConfigError`."""
    text = _read_bytes(path, lambda problem: ConfigError(_one_line(f"{path}: {problem}")))
    try:
        _refuse_hostile(text, path)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _syntax_error(path, error) from None
    if root is None:
        raise ConfigError(f"{path}:1: the document is empty; a mapping is allowed")
    return check(Node(root, path))


class _Nodes(yaml.representer.SafeRepresenter):
    """Makes one node for each value, also for two values that are the same object."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def document(value: object, where: str = "") -> Node:
    """The node of a JSON value. `where` begins each message. Raises `ConfigError` for deep nesting."""
    _refuse_deep(value, where)
    return Node(_Nodes(sort_keys=False).represent_data(value), None, where)


def _refuse_deep(value: object, where: str, levels: int = _MAX_DEPTH) -> None:
    if not isinstance(value, dict | list):
        return
    if levels == 0:
        raise ConfigError(f"{where or 'the document'}: nested too deep; {_MAX_DEPTH} levels are allowed")
    for inner in value.values() if isinstance(value, dict) else value:
        _refuse_deep(inner, where, levels - 1)


def _refuse_hostile(text: bytes, path: Path) -> None:
    """Raises `ConfigError` for aliases, which can grow without limit, and for deep nesting."""
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        place = f"{path}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{place}: aliases (*name) are not allowed; write the value out")
        if depth > _MAX_DEPTH:
            raise ConfigError(f"{place}: nested too deep; {_MAX_DEPTH} levels are allowed")


def _syntax_error(path: Path, error: yaml.YAMLError) -> ConfigError:
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable"
    return ConfigError(_one_line(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {problem}"))


# --- checks -----------------------------------------------------------------------------


def text(node: Node) -> str:
    """Any text."""
    if node.kind != "str":
        raise node.wanted("text")
    return node.scalar("text")


def line(node: Node) -> str:
    """Text of one line, not empty."""
    value = text(node)
    if not value or _CONTROL.search(value):
        raise node.error(f"{shown(value)}: one line of text is allowed, not empty")
    return value


def utf8(node: Node) -> bytes:
    """Any text, as bytes."""
    return text(node).encode()


def boolean(node: Node) -> bool:
    """true or false."""
    if node.kind != "bool":
        raise node.wanted("true or false")
    return bool(node.number())


def integer(minimum: int, maximum: int) -> Check[int]:
    """A whole number within bounds, both included."""

    def check(node: Node) -> int:
        if node.kind != "int":
            raise node.wanted("a whole number")
        value: int = node.number()
        if not minimum <= value <= maximum:
            raise node.error(f"{shown(value)}: {minimum} to {maximum} is allowed")
        return value

    return check


def one_of(*choices: str) -> Check[str]:
    """One of these words."""

    def check(node: Node) -> str:
        value = node.scalar(" or ".join(choices))
        if value not in choices:
            raise node.error(f"{shown(value)}: {', '.join(choices)} are allowed")
        return value

    return check


def matching(what: str, normalise: Callable[[str], T]) -> Check[T]:
    """The result of `normalise(characters)`. Its ValueError becomes the error "`what` is allowed"."""

    def check(node: Node) -> T:
        value = node.scalar(what)
        try:
            return normalise(value)
        except ValueError:
            raise node.error(f"{shown(value)}: {what} is allowed") from None

    return check


def base64_bytes(node: Node) -> bytes:
    """The bytes of a base64 text. White space is ignored."""
    encoded = "".join(text(node).split())
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise node.error("not base64; letters, digits, '+', '/' and the right padding are allowed") from None


def file_bytes(node: Node) -> bytes:
    """The content of the file that is named. A relative name is relative to the folder of the document."""
    if node.file is None:
        raise node.error("only a file can name another file; write the content here")
    name = line(node)
    return _read_bytes(node.file.parent / name, lambda problem: node.error(f"{shown(name)}: {problem}"))


def json_value(node: Node) -> Any:
    """Any JSON value."""
    kind = node.kind
    if kind == "map":
        return json_object(node)
    if kind == "seq":
        return [json_value(item) for item in node.items()]
    if kind == "null":
        return None
    if kind == "str":
        return text(node)
    if kind not in ("int", "float", "bool"):
        raise node.wanted("text")
    value = node.number()
    if isinstance(value, float) and not math.isfinite(value):
        raise node.error("JSON has no such number")
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise node.error(f"at most {_MAX_BITS} bits are allowed")
    return value


def json_object(node: Node) -> dict[str, Any]:
    """A mapping from text to any JSON values."""
    return {key: json_value(value) for key, value in node.fields().items()}


def list_of(check: Check[T]) -> Check[tuple[T, ...]]:
    """A list of values that pass `check`."""
    return lambda node: tuple(check(item) for item in node.items())


def map_of(check: Check[T]) -> Check[dict[str, T]]:
    """A mapping from text to values that pass `check`."""
    return lambda node: {key: check(value) for key, value in node.fields().items()}


def record(
    make: Callable[..., T], checks: Mapping[str, Check[Any]], into: Mapping[str, str] | None = None
) -> Check[T]:
    """The result of `make`, called with the checked values of a mapping as keyword arguments.

    `checks` has a check for each key that is allowed. `into` gives the name of the argument where key and
    argument differ. Of several keys for one argument, one is allowed. A key is required when its argument
    has no default.
    """
    targets = {key: (into or {}).get(key, key) for key in checks}
    required = [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]

    def keys_of(name: str) -> list[str]:
        return [key for key, target in targets.items() if target == name]

    def check(node: Node) -> T:
        arguments: dict[str, Any] = {}
        for key, value in node.fields().items():
            if key not in checks:
                raise value.error(f"unknown key; known are: {', '.join(checks)}")
            if value.kind == "null":
                continue
            if targets[key] in arguments:
                raise value.error(f"only one is allowed of: {', '.join(keys_of(targets[key]))}")
            arguments[targets[key]] = checks[key](value)
        for name in required:
            if name not in arguments:
                raise node.error(f"a key is missing: {' or '.join(keys_of(name))}")
        return make(**arguments)

    return check


def distinct(at: At, what: str, found: Iterable[tuple[Hashable, Steps]]) -> None:
    """Raises `ConfigError` when two values are equal. `found` has each value and the steps to it."""
    first: dict[Hashable, Steps] = {}
    for value, steps in found:
        if value in first:
            raise at(*steps).error(f"{what} is already that of {at(*first[value]).where}")
        first[value] = steps


def shown(value: object) -> str:
    """A value as text for a message, shortened to 60 characters."""
    quoted = repr(value)
    return quoted if len(quoted) <= _SHOWN else quoted[:_SHOWN] + "..."


def _read_bytes(path: Path, error: Callable[[str], ConfigError]) -> bytes:
    try:
        if not path.is_file():
            raise error("there is no such file" if not path.exists() else "is not a file")
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as problem:
        raise error(getattr(problem, "strerror", None) or "is not a usable name") from None
    if len(content) > _MAX_BYTES:
        raise error(f"is larger than the {_MAX_BYTES} bytes that are allowed")
    return content


def _one_line(message: str) -> str:
    return _CONTROL.sub(" ", message)
