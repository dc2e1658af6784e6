"""Fixtures of the tests of the command."""

import shutil
from pathlib import Path

import pytest

from mdmw.cli.main import main

ETC = Path(__file__).parents[2] / "etc"


@pytest.fixture
def ini(tmp_path):
    """The shipped files in a folder of their own, with a secret."""
    for name in ("api-paste.ini", "inventory.yaml", "listeners.json", "admin.conf"):
        shutil.copy(ETC / name, tmp_path)
    (tmp_path / "shared-secret").write_text("s3cret\n")
    return tmp_path / "api-paste.ini"


@pytest.fixture
def mdmw(capsys):
    """Run the command; returns status, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
