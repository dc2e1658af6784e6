"""Lines of the access log: whatever a guest writes, a line is one line and its fields are ours."""

import json
import re
import select
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.observe.access_log import JSON, MOST_OF_ID, MOST_OF_METHOD, MOST_OF_PATH, TEXT, line_of, path_of
from mdmw.observe.journal import CACHE_OUTCOMES, NOTES, Journal, TraceContext
from mdmw.records import Instance, Scope, Source

BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ADA = "7c52af88-d14b-45ae-87cf-be154d8c8638"
STAGES = ("identify", "resolve", "sign", "verify", "forward", "respond")
TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_WORD = rf"(?:{_QUOTED}|[^ \"]+)"
LINE_OF_TEXT = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<request_id>req-[0-9a-f-]{36}) "
    rf"(?P<address>{_WORD}) (?P<scope>-|(?:network|router)/{_WORD}) (?P<instance>{_WORD}) "
    rf"(?P<method>{_WORD}) (?P<path>{_QUOTED}) (?P<status>\d+) (?P<bytes>\d+) (?P<ms>\d+\.\d{{3}})"
    r"(?P<rest>(?: [a-z_]+=[A-Za-z0-9.]+)*)\n"
)


def journal(method="GET", target="/latest/", peer="10.0.0.5", **more):
    made = Journal(method, target)
    for name, value in (more | {"peer": peer}).items():
        setattr(made, name, value)
    return made


def line(form, journal):
    text = line_of(form, journal)
    assert text.isascii()
    return text


def json_line(journal):
    return line(JSON, journal)


def text_line(journal):
    return line(TEXT, journal)


def of_text(line):
    match = LINE_OF_TEXT.fullmatch(line)
    assert match, line
    return match.groupdict() | {
        name: "" if match[name] == "-" else json.loads(match[name]) if match[name][0] == '"' else match[name]
        for name in ("address", "instance", "method", "path")
    }


ANY = st.text(max_size=40) | st.text(st.characters(max_codepoint=255), max_size=40)
TARGETS = st.builds(
    "".join, st.tuples(st.sampled_from(["/", "", "http://user:pw@host/", "*"]), ANY, st.just("?"), ANY)
)
JOURNALS = st.builds(
    journal,
    method=ANY,
    target=TARGETS,
    peer=ANY,
    source=st.none() | st.builds(Source, st.just("10.0.0.5"), st.builds(Scope, st.just("router"), ANY)),
    instance=st.none() | st.builds(Instance, ANY, st.just("project"), st.just("port")),
    status=st.integers(0, 599),
    sent=st.integers(0, 2**40),
    time=st.floats(0, 4e9),
    seconds=st.floats(0, 1e5),
    stages=st.dictionaries(st.sampled_from(STAGES), st.floats(0, 100)),
    cache=st.sampled_from(("", *CACHE_OUTCOMES)),
    error=st.sampled_from(("", "NotIdentified")),
    notes=st.dictionaries(st.sampled_from(NOTES), st.integers(1, 1000)),
    trace=st.sampled_from((None, TRACE)),
)


@given(JOURNALS)
def test_any_request_is_one_json_object_on_one_line(made):
    line = json_line(made)
    assert line.isascii()
    assert line.isprintable() or line[:-1].isprintable()
    fields = json.loads(line)
    assert fields["request_id"] == made.request_id
    assert fields["path"] == path_of(made.target)
    assert fields["method"] == made.method[:MOST_OF_METHOD]
    assert fields.get("instance", "") == (made.instance.id[:MOST_OF_ID] if made.instance else "")
    assert fields.get("router", "") == (made.source.scope.id[:MOST_OF_ID] if made.source else "")
    assert (fields["status"], fields["bytes"]) == (made.status, made.sent)
    assert list(fields["stages"]) == list(made.stages)
    assert fields.get("notes", {}) == made.notes
    assert fields.get("query", False) is True


@given(JOURNALS)
def test_any_request_is_one_line_of_text(made):
    line = text_line(made)
    assert line.isascii()
    assert line[:-1].isprintable()
    fields = of_text(line)
    assert fields["request_id"] == made.request_id
    assert fields["path"] == path_of(made.target)
    assert fields["method"] == made.method[:MOST_OF_METHOD]
    assert fields["instance"] == (made.instance.id[:MOST_OF_ID] if made.instance else "")
    assert (int(fields["status"]), int(fields["bytes"])) == (made.status, made.sent)
    rest = dict(word.split("=") for word in fields["rest"].split())
    assert rest.get("cache", "") == made.cache
    assert {name for name in rest if name in STAGES} == set(made.stages)
    assert rest["query"] == "yes"


@pytest.mark.parametrize("form", [JSON, TEXT], ids=["JSON", "TEXT"])
@pytest.mark.parametrize("nasty", ["\x01", "\xff", "%00", '"', "\N{GRINNING FACE}", "%f0%9f%98%80"])
def test_a_line_fits_into_one_write_to_a_pipe(form, nasty):
    scope = Scope("network", nasty * 3000)
    made = journal(
        method=nasty * 3000,
        target="/" + nasty * 3000 + "?x",
        source=Source("fe80:1111:2222:3333:4444:5555:6666:7777", scope),
        instance=Instance(nasty * 3000, "project", "port"),
        stages=dict.fromkeys(STAGES, 12345.6),
        notes=dict.fromkeys(NOTES, 10**6),
        error="ThisIsAnErrorWithALongName",
        cache="snapshot",
        trace=TRACE,
    )
    assert len(line(form, made)) <= select.PIPE_BUF


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/latest/meta-data/", "/latest/meta-data/"),
        ("/a?token=secret", "/a"),
        ("/a%20b%C3%A9", "/a b\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("/\xc3\xa9", "/\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("/%ff", "/\\xff"),
        ("/%0a%zz%", "/\n%zz%"),
        ("/a%3Fb", "/a?b"),
        ("http://user:password@169.254.169.254/a?b", "/a"),
        ("HTTP://user:password@169.254.169.254", ""),
        ("http://user:password@169.254.169.254?b", ""),
        ("*", "*"),
        ("", ""),
    ],
)
def test_a_path(target, path):
    """Decoded for people; no query, no user and password of an absolute form."""
    assert path_of(target) == path


def test_a_long_path_is_cut():
    assert path_of("/" + "a" * 8000) == "/" + "a" * (MOST_OF_PATH - 4) + "..."
    assert path_of("/" + "a" * (MOST_OF_PATH - 1)) == "/" + "a" * (MOST_OF_PATH - 1)
    long = journal(target="/" + "a" * 8000)
    assert json.loads(json_line(long))["path"] == of_text(text_line(long))["path"] == path_of(long.target)


WHOLE = {
    "source": Source("10.0.0.5", Scope("network", BLUE)),
    "instance": Instance(ADA, "project", "port"),
    "status": 200,
    "sent": 1234,
    "time": 1772334012.8619,
    "seconds": 0.0012345,
    "stages": {"identify": 0.00002, "forward": 0.001},
    "cache": "hit",
    "notes": {"retried": 1},
    "request_id": "req-8b104bb5-b103-4d3f-bf5f-7bbfc06ea7cf",
}


def test_the_text():
    made = journal(target="/latest/user-data?x=1", **WHOLE, trace=TRACE)
    assert text_line(made) == (
        f"2026-03-01T03:00:12.861Z req-8b104bb5-b103-4d3f-bf5f-7bbfc06ea7cf 10.0.0.5 network/{BLUE} {ADA}"
        ' GET "/latest/user-data" 200 1234 1.234 identify=0.020 forward=1.000 cache=hit retried=1 query=yes'
        f" trace={TRACE.trace_id}\n"
    )


def test_the_json():
    made = journal(target="/latest/user-data?x=1", **WHOLE, trace=TRACE, error="Unavailable")
    assert json.loads(json_line(made)) == {
        "time": "2026-03-01T03:00:12.861Z",
        "request_id": "req-8b104bb5-b103-4d3f-bf5f-7bbfc06ea7cf",
        "trace_id": TRACE.trace_id,
        "address": "10.0.0.5",
        "network": BLUE,
        "instance": ADA,
        "method": "GET",
        "path": "/latest/user-data",
        "query": True,
        "status": 200,
        "bytes": 1234,
        "ms": 1.234,
        "stages": {"identify": 0.02, "forward": 1.0},
        "cache": "hit",
        "error": "Unavailable",
        "notes": {"retried": 1},
    }


def test_what_is_not_known_is_not_there():
    made = journal(method="", target="", peer="")
    assert set(json.loads(json_line(made))) == {
        *("time", "request_id", "method", "path", "status", "bytes", "ms", "stages"),
    }
    assert text_line(made).split(" ", 2)[2] == '- - - - "" 0 0 0.000\n'


def test_a_guest_cannot_pass_for_nothing_or_for_two_columns():
    words = of_text(text_line(journal(method="-", target="/ 200 5", peer="a b")))
    assert (words["address"], words["path"]) == ("a b", "/ 200 5")
    assert ' "-" ' in text_line(journal(method="-"))


def test_every_field_is_explained_in_the_documentation():
    page = (Path(__file__).parents[2] / "doc" / "filters" / "access-log.rst").read_text()
    explained = re.findall(r"^    \* - ``(\w+)``(?:, ``(\w+)``)?\n      - (.*)$", page, re.MULTILINE)
    columns = {name: column for *names, column in explained for name in names if name}
    source = Source("10.0.0.5", Scope("router", BLUE))
    made = journal(target="/?", trace=TRACE, error="Unavailable", **(WHOLE | {"source": source}))
    assert set(columns) == {*json.loads(json_line(made)), "network"}
    assert sorted(column for column in columns.values() if "column" in column) == sorted(
        f"column {number}" for number in (1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10)
    )
    assert [note for note in NOTES if f"``{note}``" not in page] == []
    assert [outcome for outcome in CACHE_OUTCOMES if f"``{outcome}``" not in page] == []
