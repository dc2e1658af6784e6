"""Directives whose text is made from the code when the documentation is built.

`mdmw-options [FILTER]`: its options, or those of all; `mdmw-command [COMMAND]`: what the
command line takes; `mdmw-operations`: the admin API; `mdmw-series`: what /metrics shows;
`mdmw-rules`: rule ids with a sentence each, and the tests that name them.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from oslo_config import cfg
from sphinx.util.docutils import SphinxDirective

from mdmw.admin.operations import OPERATIONS
from mdmw.cli.main import build_parser
from mdmw.node import settings
from mdmw.observe.series import ALL
from mdmw.wsgi.catalogue import OPTIONS, RESOLVERS

ROOT = Path(__file__).parents[2]
_TYPES = {
    cfg.StrOpt: "text",
    cfg.MultiStrOpt: "text, several: one to a line",
    cfg.IntOpt: "whole number",
    cfg.FloatOpt: "number",
    cfg.BoolOpt: "true or false",
    cfg.ListOpt: "list, with commas",
    cfg.DictOpt: "KEY:VALUE pairs, with commas",
    cfg.PortOpt: "port",
}


class _Generated(SphinxDirective):
    """One part of something, or with no argument all of it, each part under its own heading."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        parts = self.parts()
        if self.arguments:
            return self.parsed(parts[self.arguments[0]])
        return [self._section(name, lines) for name, lines in parts.items()]

    def parts(self) -> dict[str, list[str]]:
        """Name of each part -> its reStructuredText."""
        raise NotImplementedError

    def parsed(self, lines: list[str]) -> list[nodes.Node]:
        """The nodes of reStructuredText."""
        container = nodes.Element()
        self.state.nested_parse(StringList(lines, source=self.name), self.content_offset, container)
        return container.children

    def _section(self, name: str, lines: list[str]) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(f"{self.name}-{name}")])
        section += nodes.title(text=name)
        section += self.parsed(lines)
        return section


class Options(_Generated):
    """The options of a filter, or of a resolver."""

    final_argument_whitespace = True

    def parts(self) -> dict[str, list[str]]:
        sections = {**OPTIONS, **{f"resolver = {name}": options for name, options in RESOLVERS.items()}}
        sections["mdmw node"] = settings.OPTIONS
        return {name: _listed(map(_option, options)) for name, options in sections.items()}


def _option(opt: cfg.Opt) -> tuple[str, str, list[str]]:
    facts = [_TYPES[type(opt)]]
    for word, bound in (("at least", "min"), ("at most", "max")):
        value = getattr(opt.type, bound, None)
        if value is not None and not isinstance(opt, cfg.PortOpt):
            facts.append(f"{word} {value:g}")
    facts.append(_default(opt))
    if opt.secret:
        facts.append("secret, never shown")
    about = [_plain(opt.help)]
    choices = getattr(opt.type, "choices", None) or {}
    described = choices.items() if isinstance(choices, dict) else ((choice, None) for choice in choices)
    about += [f"- ``{value}``" + (f": {_plain(meaning)}" if meaning else "") for value, meaning in described]
    older = [f"``{old.name}``" for old in opt.deprecated_opts]
    if older:
        about.append(f"Older name, still understood: {', '.join(older)}.")
    return f"``{opt.dest}``", ", ".join(facts), about


def _default(opt: cfg.Opt) -> str:
    if opt.required:
        return "required"
    if opt.default in (None, "", [], {}):
        return "default: none"
    value = ", ".join(opt.default) if isinstance(opt.default, list) else str(opt.default)
    return f"default: {value.lower() if isinstance(opt.default, bool) else value}"


class Command(_Generated):
    """What a command takes."""

    def parts(self) -> dict[str, list[str]]:
        subparsers = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
        return {name: _command(parser) for name, parser in next(subparsers).choices.items()}


def _command(parser: argparse.ArgumentParser) -> list[str]:
    formatter = argparse.HelpFormatter(parser.prog, width=90)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    usage = [f"    {line}" for line in formatter.format_help().splitlines()]
    arguments = [_argument(parser, action) for action in parser._actions if action.dest != "help"]
    return [_plain(parser.description), "", "::", "", *usage, "", *_listed(arguments)]


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str, list[str]]:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest).upper()
    value = action.metavar if action.option_strings and action.nargs != 0 and not action.choices else None
    facts = ["required"] if action.required and action.option_strings else []
    facts += [" | ".join(map(str, action.choices))] if action.choices else []
    about = (action.help or "") % {**vars(action), "prog": parser.prog}
    return f"``{name} {value}``" if value else f"``{name}``", ", ".join(facts), [_plain(about)]


def _plain(text: str | None) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([*`|_\\])", r"\\\1", text or "")


def _listed(entries: Iterator[tuple[str, str, list[str]]] | list[tuple[str, str, list[str]]]) -> list[str]:
    """A definition list."""
    lines = [".. rst-class:: options", ""]
    for term, facts, about in entries:
        said = [paragraph for paragraph in about if paragraph]
        lines += [f"{term} : {facts}" if facts and said else term]
        for paragraph in said or [facts]:
            lines += [f"    {paragraph}", ""]
    return lines


class _Table(SphinxDirective):
    """A heading and a width (percent) for each column, and rows of reStructuredText."""

    columns: dict[str, int]

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        widths = " ".join(map(str, self.columns.values()))
        lines = [".. list-table::", "    :header-rows: 1", f"    :widths: {widths}", ""]
        for first, *others in [tuple(self.columns), *self.rows()]:
            lines += [f"    * - {first}", *(f"      - {cell}" for cell in others)]
        container = nodes.Element()
        self.state.nested_parse(StringList(lines, source=self.name), self.content_offset, container)
        return container.children

    def rows(self) -> Iterator[tuple[str, ...]]:
        """One tuple of cells for each."""
        raise NotImplementedError


class Operations(_Table):
    """What the admin API can do."""

    columns = {"Method": 8, "Path": 34, "Who": 8, "What": 50}

    def rows(self) -> Iterator[tuple[str, ...]]:
        for operation in OPERATIONS:
            query = ", ".join(f"``{parameter.name}``" for parameter in operation.query)
            about = _plain(operation.about) + (f" Query: {query}." if query else "")
            yield operation.method, f"``{operation.path}``", operation.may, about


class Series(_Table):
    """What Prometheus can ask for."""

    columns = {"Series": 40, "Type": 10, "Labels": 18, "What it says": 32}

    def rows(self) -> Iterator[tuple[str, ...]]:
        for one in ALL:
            labels = ", ".join(f"``{label}``" for label in one.labels) or "none"
            yield f"``{one.name}``", one.kind, labels, one.help


class Rules(_Table):
    """Lines `ID  sentence` -> a table that also says which tests name the rule."""

    has_content = True
    columns = {"Rule": 8, "What it asks": 62, "Tests that name it": 30}

    def rows(self) -> Iterator[tuple[str, ...]]:
        tests = {path: path.read_text(encoding="utf-8") for path in test_files()}
        for rule, sentence in (line.split(maxsplit=1) for line in self.content if line):
            found = [f"``{path.name}``" for path, text in tests.items() if names_rule(text, rule)]
            yield rule, sentence, ", ".join(found) or "none yet"


def names_rule(text: str, rule: str) -> bool:
    """Whether a test names a rule, as `R-1` or in a function's name as `test_r1_...`."""
    letter, number = rule.split("-")
    return re.search(rf"\b{rule}\b|\bdef test_(\w+_)?{letter.lower()}{number}_", text) is not None


def test_files() -> list[Path]:
    """Where tests are, the suite for resolvers included."""
    return [*sorted((ROOT / "tests").rglob("test_*.py")), ROOT / "mdmw" / "resolvers" / "conformance.py"]


def setup(app):  # type: ignore[no-untyped-def]
    """Called by Sphinx."""
    app.add_directive("mdmw-options", Options)
    app.add_directive("mdmw-command", Command)
    app.add_directive("mdmw-operations", Operations)
    app.add_directive("mdmw-rules", Rules)
    app.add_directive("mdmw-series", Series)
    return {"parallel_read_safe": True}
