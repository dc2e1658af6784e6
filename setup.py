"""What setup.cfg cannot say: the one module in C."""

from setuptools import Extension, setup

# Without a compiler mdmw.observe.recording does the same in Python.
setup(ext_modules=[Extension("mdmw.observe._recording", ["mdmw/observe/_recording.c"], optional=True)])
