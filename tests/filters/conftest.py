"""Fixtures of the tests of filters."""

from forwarding import forward

__all__ = ["forward"]
