"""inventory import, inventory export: from a file to a database and back."""

import os
import stat

import pytest

from mdmw.inventory.file import load
from mdmw.inventory.store import Caller, InventoryStore


@pytest.fixture
def file(ini):
    return ini.parent / "inventory.yaml"


@pytest.fixture
def db(tmp_path):
    return tmp_path / "state" / "inventory.sqlite"


def test_there_and_back(mdmw, file, db, tmp_path):
    assert mdmw("inventory", "import", file, "--db", db) == (
        0,
        f"{db}: networks 3, routers 1, instances 3, changes 7\n",
        "",
    )
    assert stat.S_IMODE(db.stat().st_mode) == 0o600
    status, out, err = mdmw("inventory", "export", "--db", db)
    assert (status, err) == (0, "")
    (tmp_path / "out.yaml").write_text(out)
    assert load(tmp_path / "out.yaml") == load(file)
    assert "    content: |\n      colour = blue\n" in out
    change = InventoryStore(str(db)).changes()[0]
    assert change.caller == Caller(f"uid {os.getuid()} with mdmw inventory import")


def test_files_that_are_named_are_inside(mdmw, file, db, tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(range(256)))
    text = file.read_text().replace("    name: red-1\n", "    name: red-1\n    user_data_file: data.bin\n")
    file.write_text(text)
    assert mdmw("inventory", "import", file, "--db", db)[0] == 0
    (tmp_path / "data.bin").unlink()
    assert "  user_data_base64: AAECAwQF" in mdmw("inventory", "export", "--db", db)[1]


def test_what_is_there_is_replaced_on_demand_only(mdmw, file, db):
    mdmw("inventory", "import", file, "--db", db)
    assert mdmw("inventory", "import", file, "--db", db) == (
        1,
        "",
        f"mdmw: {db} has an inventory already; --replace replaces the inventory of the database\n",
    )
    file.write_text(file.read_text().replace("name: green-1", "name: other"))
    status, out, _ = mdmw("inventory", "import", file, "--db", db, "--replace")
    assert (status, out) == (0, f"{db}: networks 3, routers 1, instances 3, changes 1\n")
    assert "  name: other\n" in mdmw("inventory", "export", "--db", db)[1]


def test_nothing(mdmw, file, db):
    file.write_text("{}")
    assert mdmw("inventory", "import", file, "--db", db)[0] == 0
    assert mdmw("inventory", "export", "--db", db) == (0, "{}\n", "")


def test_what_is_wrong_is_said_in_one_line(mdmw, file, db, tmp_path):
    text = file.read_text()
    file.write_text(text.replace("fa:16:3e:5b:10:05", "fa:16:3e"))
    for words, said in (
        (("import", file, "--db", db), f"{file}:"),
        (("import", tmp_path / "none", "--db", db), f"{tmp_path}/none: there is no such file"),
        (("import", tmp_path / "good", "--db", file), f"{file}: file is not a database"),
        (("import", tmp_path / "good", "--db", tmp_path), f"{tmp_path}: is not a file"),
        (("export", "--db", db), f"{db}: there is no such file"),
        (("export", "--db", file), f"{file}: file is not a database"),
    ):
        (tmp_path / "good").write_text(text)
        status, out, err = mdmw("inventory", *words)
        assert (status, out) == (2, "")
        assert err.startswith(f"mdmw: {said}")
        assert err.count("\n") == 1
    assert not db.exists()


@pytest.mark.parametrize("words", [[], ["import"], ["import", "x"], ["export"], ["frobnicate"]])
def test_wrong_usage(mdmw, words):
    status, _, err = mdmw("inventory", *words)
    assert status == 2
    assert "usage: mdmw inventory" in err
