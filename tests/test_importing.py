"""Importing mdmw changes nothing in the interpreter and nothing in other libraries."""

import json
import subprocess
import sys
from pathlib import Path

import mdmw

_SCRIPT = """
import atexit, gc, importlib, json, logging, os, pkgutil, signal, sys, threading, traceback

hooks = []

def recording(name, register):
    def record(*args, **kwargs):
        if traceback.extract_stack()[-2].filename.startswith(sys.argv[2]):
            hooks.append(name)
        return register(*args, **kwargs)
    return record

atexit.register = recording("atexit", atexit.register)
os.register_at_fork = recording("register_at_fork", os.register_at_fork)

def state():
    return {
        "switch interval": sys.getswitchinterval(),
        "garbage collection": [*gc.get_threshold(), gc.get_freeze_count(), gc.isenabled()],
        "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "umask": os.umask(os.umask(0o22)) and None,
        "threads": threading.active_count(),
        "levels": [logging.getLogger(name).level for name in ("", "mdmw", "keystoneauth", "oslo_policy")],
        "handlers": [len(logging.getLogger(name).handlers) for name in ("", "mdmw")],
    }

before = state()
import mdmw
for module in pkgutil.walk_packages(mdmw.__path__, "mdmw."):
    if module.name.startswith("mdmw.wsgi.") and module.name.rpartition(".")[2] in sys.argv[1].split(","):
        continue  # a server imports these for their effect
    if module.name.endswith("__main__"):
        continue
    importlib.import_module(module.name)
print(json.dumps({"before": before, "after": state(), "hooks": hooks}))
"""
_PACKAGE = Path(mdmw.__path__[0])
_FOR_SERVERS = ("agent", "proxy", "combined", "standalone", "nova", "named")


def test_importing_every_module_changes_nothing():
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, ",".join(_FOR_SERVERS), str(_PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found["after"] == found["before"]
    assert found["hooks"] == []


def test_the_modules_for_servers_are_the_only_ones_with_an_effect():
    folder = _PACKAGE / "wsgi"
    assert {path.stem for path in folder.glob("*.py") if "load_or_exit(" in path.read_text()} == {
        *_FOR_SERVERS,
        "pipelines",
    }
