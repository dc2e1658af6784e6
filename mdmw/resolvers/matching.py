"""Old name of `mdmw.resolvers.contract`."""

from mdmw.moved import moved

__getattr__ = moved(__name__, "mdmw.resolvers.contract")
