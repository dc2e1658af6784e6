"""The specification in doc/spec: what is cited exists, and every rule that is built has a test."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "doc" / "spec"
CITING = ("mdmw", "tests", "doc", "etc", "bench", "tools", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
TEXT = {
    ".py",
    ".rst",
    ".md",
    ".ini",
    ".yaml",
    ".yml",
    ".json",
    ".conf",
    ".service",
    ".socket",
    ".sh",
    ".txt",
    "",
}
BUILD_FOLDERS = {"_build", "__pycache__"}

_RULE = re.compile(r"(?<![\w-])(?:[WRSPEO]-\d+|K\d+)(?![\w-])")
_NUMBER = r"\d+(?:\.\d+)?"
_SECTIONS = re.compile(rf"\bspec (?:section )?({_NUMBER}(?:(?:, | and | to |-){_NUMBER})*)", re.IGNORECASE)
_LABEL = re.compile(rf"`(?:[^`<]*<)?spec-({_NUMBER})>?`")
_HEADING = re.compile(rf"^(?:\.\. _spec-({_NUMBER}):\n\n)?({_NUMBER}) \S.*\n([=-])+$", re.MULTILINE)


@pytest.fixture
def generated(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "doc" / "ext")
    import generated

    return generated


def cited_rules(text):
    return set(_RULE.findall(text))


def cited_sections(text):
    listed = (number for numbers in _SECTIONS.findall(text) for number in re.findall(_NUMBER, numbers))
    return {*listed, *_LABEL.findall(text)}


def headings():
    """Number of each section -> its label, empty for a chapter."""
    pages = (page.read_text() for page in SPEC.glob("*.rst"))
    return {number: label for page in pages for label, number, _ in _HEADING.findall(page)}


def citing_files():
    """The files that persons write."""
    for name in CITING:
        path = ROOT / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in found:
            if file.suffix in TEXT and file.is_file() and not BUILD_FOLDERS & set(file.parts):
                yield file


def missing(known, cited_in):
    """`FILE: WHAT` for each citation of what is not known; the examples in this file are no citations."""
    files = [file for file in citing_files() if file != Path(__file__)]
    assert len(files) > 100
    return [
        f"{file.relative_to(ROOT)}: {one}"
        for file in files
        for one in sorted(cited_in(file.read_text(errors="replace")) - known)
    ]


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("pure (spec 4.2 to 4.9).", {"4.2", "4.9"}),
        ("held to spec 1.2-1.5, 1.7", {"1.2", "1.5", "1.7"}),
        ("LP#1, spec 1.6 and 3.4; Spec 7.4: 400", {"1.6", "3.4", "7.4"}),
        ("as spec section 6 counts, then spec 3.2", {"6", "3.2"}),
        (":ref:`spec-4.3` and :ref:`the table <spec-5.1>`", {"4.3", "5.1"}),
        ("the specification 4 times; importlib.find_spec(9)", set()),
    ],
)
def test_citations_of_sections_are_found(text, sections):
    assert cited_sections(text) == sections


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("(R-911 to R-914, K903)", {"R-911", "R-914", "K903"}),
        ("W-918: in X-Forwarded-For of 64 KiB, UTF-8, req-W-1-2", {"W-918"}),
        ("O-906; SHA-256, HTTP-1, S-901;", {"O-906", "S-901"}),
    ],
)
def test_citations_of_rules_are_found(text, rules):
    assert cited_rules(text) == rules


def test_every_rule_that_is_cited_exists(generated):
    assert missing({rule.id for rule in generated.rules()}, cited_rules) == []


def test_every_section_that_is_cited_exists():
    assert missing(set(headings()), cited_sections) == []


def test_ids_and_numbers_are_unique_and_complete(generated):
    """No id is used twice, none is left out, and each section has a label with its number."""
    ids = [rule.id for rule in generated.rules()]
    assert [id_ for id_, times in Counter(ids).items() if times > 1] == []
    directives = [
        one for page in SPEC.glob("*.rst") for one in re.findall(r"mdmw-rule:: (\S+)", page.read_text())
    ]
    assert sorted(ids) == sorted(directives)
    for prefix, last in {"W-": 18, "R-": 17, "S-": 4, "P-": 16, "E-": 4, "K": 45, "O-": 10}.items():
        assert {f"{prefix}{number}" for number in range(1, last + 1)} <= set(ids)
    assert {number: label for number, label in headings().items() if "." in number and label != number} == {}


def test_every_rule_that_is_built_is_named_by_a_test(generated):
    assert [rule.id for rule in generated.rules() if rule.is_built and not generated.tests_of(rule.id)] == []


def test_no_test_and_no_code_names_a_rule_that_is_not_built(generated):
    """Whoever builds a rule takes the mark off its page."""
    files = [*(ROOT / "mdmw").rglob("*.py"), *generated.test_files()]
    text = "\n".join(path.read_text() for path in files)
    marked = [rule.id for rule in generated.rules() if "not built" in rule.state]
    assert len(marked) > 10
    assert [rule for rule in marked if generated.names_rule(text, rule)] == []


def test_the_page_of_rules_has_every_letter(generated):
    letters = re.findall(r"^\.\. mdmw-rules:: (\w)$", (SPEC / "rules.rst").read_text(), re.MULTILINE)
    assert sorted(letters) == sorted({rule.id[0] for rule in generated.rules()})
