"""mdmw-node where the users of its processes cannot run Python or read the code: one line at the start."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mdmw

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start processes of other users")

DAEMON = "import sys; from mdmw.cli.node_daemon import main; sys.exit(main())"
BECOME = (
    "from mdmw.identity import become, identity_of; from mdmw.errors import ConfigError\n"
    "try: become(identity_of('nobody', ''))\n"
    "except ConfigError as error: print(error)"
)
MODULES = [path for path in sys.path if path.endswith("-packages")]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can read; pytest's own are for one user."""
    with tempfile.TemporaryDirectory(prefix="mdmw") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def code(folder: Path) -> Path:
    """A folder with a copy of mdmw."""
    shutil.copytree(Path(mdmw.__file__).parent, folder / "lib" / "mdmw", ignore=_compiled)
    return folder / "lib"


def _compiled(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def refusal(folder: Path, *places: Path, python: Path | None = None, words: tuple[str, ...] = ()) -> str:
    """What mdmw-node says, which is one line, with modules in these places too."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*places, *MODULES]))}
    if python:
        environ |= {"PYTHONHOME": sys.base_prefix}
    done = subprocess.run(
        [
            str(python or sys.executable),
            "-c",
            DAEMON,
            "--run-dir",
            str(folder / "run"),
            "--user",
            "nobody",
            *words,
        ],
        cwd="/",
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert not (folder / "run").exists()
    return line


def test_code_below_a_closed_folder(folder: Path, code: Path) -> None:
    """A checkout in the home of root: the line names the user, the code, and the closed folder."""
    folder.chmod(0o700)
    assert refusal(folder, code) == (
        f"mdmw-node: user nobody cannot use {code / 'mdmw'}, because {folder} is closed to this user; "
        "install Python and mdmw where every user can read them"
    )


def test_code_that_was_installed_for_root_alone(folder: Path, code: Path) -> None:
    """As pip installs with a umask of 077."""
    (code / "mdmw").chmod(0o700)
    line = refusal(folder, code)
    assert f"cannot use {code / 'mdmw'}, because {code / 'mdmw'} is closed" in line


def test_one_package_for_root_alone(folder: Path, code: Path) -> None:
    """Of what is loaded already; the rest of the modules of that folder are for everybody."""
    (code / "mdmw" / "node").chmod(0o750)
    assert f"because {code / 'mdmw' / 'node'} is closed" in refusal(folder, code)


def test_another_place_of_modules(folder: Path) -> None:
    (folder / "more").mkdir(mode=0o700)
    assert f"because {folder / 'more'} is closed" in refusal(folder, folder / "absent", folder / "more")


@pytest.mark.parametrize(("closed", "mode"), [("bin", 0o700), ("bin/python3", 0o700), ("bin/python3", 0o744)])
def test_an_interpreter_for_root_alone(folder: Path, code: Path, closed: str, mode: int) -> None:
    """As pyenv installs one in the home of root, or one that others may read but not run."""
    (folder / "bin").mkdir()
    python = Path(shutil.copy(Path(sys.executable).resolve(), folder / "bin" / "python3"))
    (folder / closed).chmod(mode)
    line = refusal(folder, code, python=python)
    assert f"user nobody cannot use {python}, because {folder / closed} is closed" in line


def test_the_planner_may_be_another_user(folder: Path, code: Path) -> None:
    """A folder that the group of the workers may read, and the planner's may not."""
    os.chown(code, 0, 65534)
    code.chmod(0o750)
    words = ("--group", "65534", "--planner-user", "daemon", "--file", "/x.yaml")
    assert f"user daemon cannot use {code / 'mdmw'}, because {code} is closed" in refusal(
        folder, code, words=words
    )


def test_other_daemons_that_become_a_user(folder: Path, code: Path) -> None:
    """P-11: mdmw-metadata-agent and mdmw-ns-metadata-proxy, which become a user when all is loaded."""
    folder.chmod(0o700)
    environ = os.environ | {"PYTHONPATH": str(code)}
    done = subprocess.run(
        [sys.executable, "-c", BECOME], cwd="/", env=environ, capture_output=True, text=True, check=True
    )
    assert f"user nobody cannot use {code / 'mdmw'}, because {folder} is closed" in done.stdout
