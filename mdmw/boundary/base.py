"""Old name of `mdmw.boundary.stage`."""

from mdmw.moved import moved

__getattr__ = moved(__name__, "mdmw.boundary.stage")
