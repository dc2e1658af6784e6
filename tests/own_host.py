"""A /run and a network of its own for each pytest process, so that test runs on one machine do not meet.

Names of namespaces, files in /run, devices and ports are then free in each process, whatever runs beside it.
"""

import ctypes
import os
import subprocess
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000


def take() -> str:
    """Move this process into a mount namespace and a network namespace of its own.

    Returns why the process stays where it was, or an empty string. Must be called by the main thread.
    """
    if os.geteuid() != 0:
        return "not root"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    for command in (
        "mount --make-rslave /",
        "mount -t tmpfs -o mode=755 tmpfs /run",
        "mount -t sysfs sysfs /sys",  # shows the devices of the network namespace in which it was mounted
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True, timeout=30)
    Path("/run/netns").mkdir()
    return ""
