"""Old name of `mdmw.boundary.peer`."""

from mdmw.moved import moved

__getattr__ = moved(__name__, "mdmw.boundary.peer")
