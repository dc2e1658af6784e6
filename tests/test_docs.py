"""What the documentation shows is true: samples load, snippets run, command lines parse."""

import configparser
import contextlib
import re
import shlex
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

import pytest
from certificates import Authority
from paste.deploy import loadwsgi

from mdmw import wire
from mdmw.cli.main import build_parser
from mdmw.filters.source_identify import read_listeners
from mdmw.inventory import file as inventory_file
from mdmw.inventory.store import Caller, InventoryStore
from mdmw.testing.filters import FilterConformance
from mdmw.testing.resolvers import ResolverConformance
from mdmw.wsgi import catalogue, pipelines

ROOT = Path(__file__).parents[1]
DOC = ROOT / "doc"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOC.rglob("*.rst"))]
HEADINGS = ["Purpose", "Header contract", "Sample", "Options", "Faults"]
SECRET = "a secret of the tests\n"

_RST_BLOCK = re.compile(r"^( *)\.\. code-block:: (\w+)\n\n((?:\1    .*\n|\n)+)", re.MULTILINE)
_MD_BLOCK = re.compile(r"^()```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:[$#] |Exec\w+=\S*/)?mdmw (.+?)(?: > .*| \| .*)?$", re.MULTILINE)
_MODULE = re.compile(r"# (\w+)\.py\n")


@dataclass(frozen=True)
class Block:
    """One sample, and where it begins."""

    language: str
    text: str
    line: int


def blocks(document, *languages):
    source = document.read_text()
    pattern = _RST_BLOCK if document.suffix == ".rst" else _MD_BLOCK
    for match in pattern.finditer(source):
        if match[2] in languages:
            yield Block(match[2], textwrap.dedent(match[3]), source.count("\n", 0, match.start(3)) + 1)


def documents_with(language):
    return [
        pytest.param(document, id=str(document.relative_to(ROOT)))
        for document in DOCUMENTS
        if any(blocks(document, language))
    ]


class Machine:
    """A folder in place of /etc, /run and /var/lib, with the files that samples name."""

    def __init__(self, home):
        self.home = home
        etc = home / "etc"
        shutil.copytree(ROOT / "etc", etc, ignore=shutil.ignore_patterns("systemd"))
        for name in ("shared-secret", "relay-secret", "imdsv2-secret"):
            (etc / name).write_text(SECRET)
        (etc / "metadata_agent.ini").write_text(f"[DEFAULT]\nmetadata_proxy_shared_secret = {SECRET}")
        (etc / "tls").mkdir()
        inventory = inventory_file.load(etc / "inventory.yaml")
        InventoryStore(str(home / "inventory.sqlite")).fill(inventory, Caller("docs"))
        authority = Authority(home, "docs")
        made = (authority.file, *authority.issue("agent.example.org"))
        for source, name in zip(made, ("ca.pem", "agent.pem", "agent.key"), strict=True):
            shutil.copy(source, etc / "tls" / name)

    def here(self, text):
        for there in ("/etc/mdmw", "/etc/neutron"):
            text = text.replace(there, str(self.home / "etc"))
        for there in ("/run/mdmw", "/var/lib/mdmw", "/var/log/mdmw"):
            text = text.replace(there, str(self.home))
        return text

    def write(self, name, block):
        path = self.home / "etc" / name
        path.write_text(self.here(block.text))
        return path


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return Machine(tmp_path)


def run_snippets(document, machine, monkeypatch):
    """Run the Python of a document from top to bottom; one that begins `# NAME.py` becomes that module."""
    names = {"__name__": document.stem}
    for block in blocks(document, "python"):
        text = machine.here(block.text)
        if module := _MODULE.match(text):
            (machine.home / f"{module[1]}.py").write_text(text)
            monkeypatch.delitem(sys.modules, module[1], raising=False)
        code = compile("\n" * (block.line - 1) + text, str(document), "exec")
        exec(code, names)
    return names


@pytest.mark.parametrize("document", documents_with("python"))
def test_python_runs(document, machine, monkeypatch):
    names = run_snippets(document, machine, monkeypatch)
    suites = [kind for kind in names.values() if _SUITES & set(getattr(kind, "__bases__", ()))]
    assert len(suites) == block_count(document, "Conformance):")
    for suite in suites:
        for test in (name for name in dir(suite) if name.startswith("test_")):
            with contextlib.suppress(SkipTest):
                getattr(suite(), test)()


def block_count(document, text):
    return sum(block.text.count(text) for block in blocks(document, "python"))


_SUITES = {ResolverConformance, FilterConformance}


@pytest.mark.parametrize("document", documents_with("ini"))
def test_ini_loads(document, machine, monkeypatch):
    run_snippets(document, machine, monkeypatch)
    for block in blocks(document, "ini"):
        path = machine.write("sample.ini", block)
        try:
            load(path)
        except Exception as error:
            pytest.fail(f"{document}:{block.line}: {error}")


def load(path):
    """Each pipeline of a file; in one without pipelines each filter and application by itself."""
    for name in pipelines.names(str(path)):
        pipelines.load(name, str(path))
    if pipelines.names(str(path)):
        return
    sections = configparser.RawConfigParser()
    sections.read(path)
    loaders = {"filter": loadwsgi.loadfilter, "app": loadwsgi.loadapp}
    for section in sections.sections():
        kind, _, name = section.partition(":")
        loaders[kind](f"config:{path}", name=name)


@pytest.mark.parametrize("document", documents_with("yaml"))
def test_yaml_is_an_inventory(document, machine):
    for block in blocks(document, "yaml"):
        assert inventory_file.load(machine.write("inventory.yaml", block)).instances


@pytest.mark.parametrize("document", documents_with("json"))
def test_json_is_a_table_of_listeners(document, machine):
    for block in blocks(document, "json"):
        assert read_listeners(machine.write("listeners.json", block))


@pytest.mark.parametrize("document", [pytest.param(d, id=d.name) for d in DOCUMENTS])
def test_commands_parse(document):
    for block in blocks(document, "console", "sh", "cfg"):
        for command in _COMMAND.findall(block.text):
            build_parser().parse_args(shlex.split(command))


def test_every_entry_point_has_a_page_with_the_fixed_headings():
    for name in catalogue.entry_point_options():
        page = (DOC / "filters" / f"{name}.rst").read_text()
        assert re.findall(r"^(.+)\n-+$", page, re.MULTILINE) == HEADINGS, name
        assert f".. mdmw-options:: {name}\n" in page


def test_every_key_of_the_inventory_is_explained():
    keys = set(re.findall(r'"(\w+)": [\w.]+', (ROOT / "mdmw" / "inventory" / "entries.py").read_text()))
    assert {"cidr", "user_data_file", "vf_trusted"} <= keys
    page = (DOC / "inventory.rst").read_text()
    assert [key for key in sorted(keys) if f"``{key}``" not in page] == []


def test_headers_that_source_identify_is_said_to_remove_are_removed():
    page = (DOC / "filters" / "source-identify.rst").read_text()
    row = page[page.index("* - Removes") : page.index("* - Environ, reads")]
    names = re.findall(r"``([\w-]+)``", row[: row.index("and each name that")])
    assert len(names) > 20
    environ = {wire.environ_key(name + "Anything" * name.endswith("-")): "x" for name in names}
    environ |= {"HTTP_CONNECTION": "close, X-Listed", "HTTP_X_LISTED": "x"}
    wire.strip(environ)
    assert list(environ) == ["HTTP_CONNECTION"]
