"""From a path to the operations that it has."""

from collections.abc import Mapping
from dataclasses import dataclass

from routes import Mapper

from mdmw.admin.operations import OPERATIONS, Operation


@dataclass(frozen=True, slots=True)
class Place:
    """The operations of a path by their method, and the variables in it."""

    operations: Mapping[str, Operation]
    variables: Mapping[str, str]

    @property
    def allow(self) -> tuple[str, ...]:
        """The methods that it takes."""
        return (*self.operations, *(("HEAD",) if "GET" in self.operations else ()), "OPTIONS")

    def operation(self, method: str) -> Operation | None:
        """What a method does here; HEAD is GET without a body."""
        return self.operations.get("GET" if method == "HEAD" else method)


def find(path: str) -> Place | None:
    """The place that a decoded path names, or None."""
    if "\n" in path:  # an expression of Routes ends in `$`, which also fits before a final newline
        return None
    match = _MAPPER.match(path)
    return Place(_BY_PATH[match.pop("template")], match) if match else None


def _connect() -> Mapper:
    mapper = Mapper(explicit=True)
    for template in _BY_PATH:
        mapper.connect(None, template.replace(":", "\\:"), template=template)
    mapper.create_regs()
    return mapper


_BY_PATH: dict[str, dict[str, Operation]] = {}
for _operation in OPERATIONS:
    _BY_PATH.setdefault(_operation.path, {})[_operation.method] = _operation
_MAPPER = _connect()
