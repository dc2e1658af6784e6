"""What setup.cfg cannot say: the one module in C."""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = sorted(str(path) for path in Path("mdmw/observe/c").glob("*.c"))
in_c = Extension(
    "mdmw.observe._in_c",
    SOURCES,
    depends=["mdmw/observe/c/observe.h"],
    extra_compile_args=["-fvisibility=hidden"],
    optional=True,  # without a compiler the same is done in Python
)
setup(ext_modules=[in_c])
