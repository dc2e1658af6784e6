"""What `make` asks first as root: which Python and which checkout every user can read."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv of util-linux"
)


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A checkout, as far as these tools look at it, that every user can read."""
    with tempfile.TemporaryDirectory(prefix="mdmw") as name:
        path = Path(name) / "checkout"
        shutil.copytree(TOOLS, path / "tools")
        (path / "mdmw").mkdir()
        (path / "mdmw" / "__init__.py").touch()
        path.parent.chmod(0o755)
        yield path


def run(*words: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environ = os.environ | ({"PATH": path} if path else {})
    return subprocess.run(list(map(str, words)), env=environ, capture_output=True, text=True, check=False)


def test_a_checkout_that_every_user_can_read(checkout: Path) -> None:
    done = run(checkout / "tools" / "open-to-all", "checkout")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("closed", ["..", ".", "mdmw", "mdmw/__init__.py"])
def test_a_checkout_for_root_alone(checkout: Path, closed: str) -> None:
    """A home that only root may enter, or a clone that was made with a umask of 077."""
    (checkout / closed).chmod(0o700 if (checkout / closed).is_dir() else 0o600)
    done = run(checkout / "tools" / "open-to-all", "checkout")
    assert done.stdout == f"/var/cache/mdmw-checkouts/{str(checkout)[1:].replace('/', '-')}\n"


def test_the_first_python_that_every_user_can_run(checkout: Path) -> None:
    """Not one below a closed folder, not one that is too old, and not one that is none."""
    folders = [checkout.parent / name for name in ("closed", "old", "broken", "open")]
    for folder in folders:
        folder.mkdir()
        (folder / "python3").write_text("#!/bin/sh\nexit 0\n")
        (folder / "python3").chmod(0o755)
    folders[0].chmod(0o700)
    (folders[1] / "python3").write_text("#!/bin/sh\nexit 1\n")
    (folders[2] / "python3").chmod(0o644)
    path = os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"])
    done = run(checkout / "tools" / "open-to-all", "python", path=path)
    assert (done.stdout, done.stderr) == (f"{folders[3]}/python3\n", "")


def test_this_python_is_one_that_every_user_can_run(checkout: Path) -> None:
    """It is one that `make` chose."""
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", ""]
    assert run(*command).returncode == 0


def test_a_copy_that_every_user_can_read(checkout: Path) -> None:
    """What make made stays in both; what is gone from the checkout goes from the copy."""
    copy = checkout.parent / "a" / "copy"
    for made in (".venv/x", "build/x", ".git/x", "mdmw/__pycache__/x", "doc/x"):
        (checkout / made).parent.mkdir(exist_ok=True)
        (checkout / made).write_text("of the checkout")
    (checkout / "mdmw" / "__init__.py").chmod(0o600)
    (checkout / "mdmw").chmod(0o700)
    assert run(checkout / "tools" / "copy-checkout", copy).returncode == 0
    for made in (".venv/x", "build/x"):
        (copy / made).parent.mkdir()
        (copy / made).write_text("of the copy")
    (checkout / "doc" / "x").rename(checkout / "doc" / "y")
    done = run(checkout / "tools" / "copy-checkout", copy)
    assert (done.returncode, done.stderr) == (0, "")
    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()} - {".copied"}
    tools = {f"tools/{path.name}" for path in TOOLS.iterdir()}
    assert files == tools | {".venv/x", "build/x", "mdmw/__init__.py", "doc/y"}
    assert (copy / "build" / "x").read_text() == "of the copy"
    assert run(copy / "tools" / "open-to-all", "checkout").stdout == ""


def test_a_copy_does_not_replace_what_is_something_else(checkout: Path) -> None:
    other = checkout.parent / "other"
    other.mkdir()
    (other / "precious").touch()
    for place in (other, checkout):
        done = run(checkout / "tools" / "copy-checkout", place)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert (other / "precious").exists()
    assert (checkout / "mdmw" / "__init__.py").exists()
