"""Figures of what was measured."""

import collections
import math
import statistics
from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]


def percentile(values: list[float], percent: float) -> float | None:
    """The value that `percent` of `values` do not exceed (nearest rank); None when there are none."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def medians(several: Sequence[Figures]) -> Figures:
    """One for several of the same kind: the median of each figure; errors are summed up."""
    return {name: _one(name, [figures[name] for figures in several]) for name in several[0]}


def _one(name: str, values: Sequence[Any]) -> Any:
    if name == "errors":
        return sum(values)
    if name == "problems":
        return sum(map(collections.Counter, values), collections.Counter())
    if isinstance(values[0], dict):
        return medians(values)
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
