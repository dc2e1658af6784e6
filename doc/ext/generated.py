"""Directives whose text is made from the code when the documentation is built.

`mdmw-options [FILTER]`: its options, or those of all; `mdmw-command [COMMAND]`: what the
command line takes; `mdmw-operations`: the admin API; `mdmw-series`: what /metrics shows;
`mdmw-rule ID`: one rule of the specification; `mdmw-rules LETTER`: a table of the rules whose ids begin
with that letter, and of the tests that name them.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from oslo_config import cfg
from sphinx.util.docutils import SphinxDirective

from mdmw.admin.operations import OPERATIONS
from mdmw.cli.main import build_parser
from mdmw.node import settings
from mdmw.observe.series import ALL
from mdmw.wsgi.catalogue import entry_point_options, resolver_options

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "doc" / "spec"

#: What the option `state` of a rule may be; without it the rule is built.
BUILT = "built"
STATES = ("not built yet", "optional, not built", "left to Neutron")
_RULE = re.compile(r"^\.\. mdmw-rule:: (\S+)\n((?:    :.*\n)*)\n((?:(?:    .*)?\n)+)", re.MULTILINE)
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
        sections = entry_point_options()
        sections |= {f"resolver = {name}": options for name, options in resolver_options().items()}
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


def _state(argument: str) -> str:
    state = argument.strip()
    if state not in STATES:
        raise ValueError(f"allowed: {', '.join(STATES)}")
    return state


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as its page in doc/spec has it. `summary` is its first paragraph, on one line."""

    id: str
    page: str
    is_contract: bool
    state: str
    summary: str

    @property
    def is_built(self) -> bool:
        """Whether mdmw does what the rule asks; a fault of another program (K) is nothing to build."""
        return self.state == BUILT and not self.id.startswith("K")


def rules() -> list[Rule]:
    """All rules of the specification, page by page."""
    found = []
    for page in sorted(SPEC.glob("*.rst")):
        for id_, options, body in _RULE.findall(page.read_text(encoding="utf-8")):
            state = re.search(r":state: (.+)", options)
            summary = " ".join(body.split("\n\n")[0].split())
            found.append(Rule(id_, page.stem, ":contract:" in options, state[1] if state else BUILT, summary))
    return found


class RuleText(SphinxDirective):
    """One rule: its id, which `:ref:` can name; whether it is built; its text; and the tests that name it."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"contract": directives.flag, "state": _state}

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        (rule,) = self.arguments
        anchor = nodes.make_id(rule)
        self.env.get_domain("std").note_hyperlink_target(rule.lower(), self.env.docname, anchor, rule)
        marks = ["contract"] if "contract" in self.options else []
        marks += [state] if (state := self.options.get("state", BUILT)) != BUILT else []
        term = nodes.term("", "", nodes.strong(text=rule), ids=[anchor])
        if marks:
            term += nodes.emphasis(text=f" ({', '.join(marks)})")
        tests = ", ".join(f"``{name}``" for name in tests_of(rule))
        lines = [*self.content, "", *([f"Tests: {tests}"] if tests else [])]
        definition = nodes.definition()
        self.state.nested_parse(StringList(lines, source=rule), self.content_offset, definition)
        return [nodes.definition_list("", nodes.definition_list_item("", term, definition))]


class Rules(_Table):
    """The rules of one letter, what each asks, and which tests name it."""

    required_arguments = 1
    columns = {"Rule": 8, "What the rule asks": 62, "Tests that name the rule": 30}

    def rows(self) -> Iterator[tuple[str, ...]]:
        for rule in rules():
            if rule.id.startswith(self.arguments[0]):
                found = ", ".join(f"``{name}``" for name in tests_of(rule.id))
                state = rule.state if rule.state != BUILT else "none"
                yield f":ref:`{rule.id}`", rule.summary, found or state


@cache
def _tests() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in test_files()}


def tests_of(rule: str) -> list[str]:
    """The names of the files with tests that name a rule."""
    return [path.name for path, text in _tests().items() if names_rule(text, rule)]


def names_rule(text: str, rule: str) -> bool:
    """Whether a test names a rule, as `R-1` or in a function's name as `test_r1_...`."""
    in_name = rule.replace("-", "").lower()
    return re.search(rf"\b{rule}\b|\bdef test_(\w+_)?{in_name}_", text) is not None


def test_files() -> list[Path]:
    """Where tests are, the suite for resolvers included."""
    return [*sorted((ROOT / "tests").rglob("test_*.py")), ROOT / "mdmw" / "testing" / "resolvers.py"]


def setup(app):  # type: ignore[no-untyped-def]
    """Called by Sphinx."""
    app.add_directive("mdmw-options", Options)
    app.add_directive("mdmw-command", Command)
    app.add_directive("mdmw-operations", Operations)
    app.add_directive("mdmw-rule", RuleText)
    app.add_directive("mdmw-rules", Rules)
    app.add_directive("mdmw-series", Series)
    return {"parallel_read_safe": True}
