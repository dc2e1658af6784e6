"""Figures of what was measured."""

import math


def percentile(values: list[float], percent: float) -> float | None:
    """The value that `percent` of `values` do not exceed (nearest rank); None when there are none."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]
