"""Old name of `mdmw.testing.resolvers`."""

from mdmw.moved import moved

__getattr__ = moved(__name__, "mdmw.testing.resolvers")
