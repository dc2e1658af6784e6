"""Answers of serving processes that lie: each becomes one bounded line, and moves no cursor."""

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.observe.answers import checked_message
from mdmw.observe.counters import BOUNDS
from mdmw.observe.processes import Reply, ask

_INSTANCE = {"id": "i", "project_id": "p", "port_id": "q"}
_REQUEST = {
    "time": 1.5, "request_id": "req-1", "address": "10.0.0.5", "scope": ["network", "n"], "instance": None,
    "project": None, "method": "GET", "path": "/", "status": 200, "bytes": 3, "seconds": 0.1,
    "stages": {"sign": 0.01}, "cache": "hit", "error": "", "notes": {"retries": 1},
}  # fmt: skip
#: Question -> a good answer.
_GOOD: dict[str, Any] = {
    "process": {"pid": 1, "threads": 2, "memory": 3},
    "checks": {"resolver": {"ok": True, "text": "good", "seconds": 0.1, "at": 1.0}},
    "counters": {
        "since": 1.0,
        "bounds": list(BOUNDS),
        "scopes": [
            {
                "scope": None, "count": 1, "statuses": {"2xx": 1}, "seconds": 0.1, "slowest": 0.1,
                "durations": [0] * (len(BOUNDS) + 1), "first": 1.0, "last": 2.0,
            },
        ],
    },
    "recent": [_REQUEST],
    "resolve": {
        "instance": _INSTANCE, "reason": "", "cache": "", "calls": 1, "seconds": 0.1, "resolver": "R",
    },
    "cache": {
        "answers": [
            {
                "mac": None, "instance": _INSTANCE, "reason": "", "age": 1.0, "expires_in": -1.0, "idle": 0,
                "sure": True,
            },
        ],
        "snapshot": {"age": 1.0, "ports": 3, "instance": None, "reason": "nobody"},
    },
    "purge": {"dropped": 3, "shared": False},
    "reload": {"reloads": True, "text": "done", "told": [1]},
}  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value of an answer."""
    yield path
    for step, one in (
        value.items() if isinstance(value, dict) else enumerate(value) if type(value) is list else ()
    ):
        yield from places(one, (*path, step))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return new
    made = copy.deepcopy(value)
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = new
    return made


_PLACES = [(question, path) for question, good in _GOOD.items() for path in places(good)]


@pytest.mark.parametrize("question", _GOOD)
def test_a_good_answer_is_taken(question: str) -> None:
    assert checked_message(question, {"answer": _GOOD[question]}) == (_GOOD[question], "", "")


@pytest.mark.parametrize(("question", "path"), _PLACES)
@pytest.mark.parametrize("wrong", [[{}], -(10**30), float("nan"), {"x": [None]}, "x" * 20_000])
def test_every_field_is_checked(question: str, path: tuple[Any, ...], wrong: Any) -> None:
    """Whichever value of whichever answer is of a wrong type or size."""
    with pytest.raises(ValueError, match=f"^{question}"):
        checked_message(question, {"answer": changed(_GOOD[question], path, wrong)})


@pytest.mark.parametrize(("question", "path"), [one for one in _PLACES if one[1] and type(one[1][-1]) is str])
def test_no_field_may_be_missing(question: str, path: tuple[Any, ...]) -> None:
    answer = copy.deepcopy(_GOOD[question])
    inner = answer
    for step in path[:-1]:
        inner = inner[step]
    if path[-1] not in ("resolver", "2xx", "sign", "retries"):
        del inner[path[-1]]
        with pytest.raises(ValueError, match="is missing"):
            checked_message(question, {"answer": answer})


def test_fields_of_another_version_are_left_out() -> None:
    answer = {"pid": 1, "threads": 2, "memory": 3, "later": "\x1b[2J"}
    assert checked_message("process", {"answer": answer})[0] == _GOOD["process"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)


@given(st.sampled_from(sorted(_GOOD)), _JSON | _JSON.map(lambda one: {"answer": one, "error": one}))
def test_whatever_comes_it_is_refused_with_a_value_error(question: str, message: Any) -> None:
    try:
        _, error, text = checked_message(question, message)
    except ValueError:
        return
    assert bool(error) == bool(text)


def lying(directory: Path, peers: Any, *answers: bytes) -> list[Reply]:
    """The replies when processes answer these bytes to the question `recent`."""
    for number, answer in enumerate(answers):

        def script(talk: Any, answer: bytes = answer) -> None:
            talk.sock.recv(1000)
            talk.send(answer)

        peer = peers.unix(script)
        Path(peer.address.path).rename(directory / f"liar-{number}.sock")
    return ask(directory, "recent")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, because of the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="mdmw-") as name:
        yield Path(name)


def test_an_answer_that_is_none(directory: Path, peers: Any) -> None:
    replies = lying(directory, peers, b"nonsense\n", b'{"ans', b"", b"[" * 100_000 + b"\n", b"{}\n", b"1\n")
    ended = "the process refused to answer, or has ended"
    needed = "the answer of the process is malformed: only an object with an answer or an error is allowed"
    problems = [reply.problem for reply in replies]
    assert problems[0] == "the answer of the process is malformed: Expecting value: line 1 column 1 (char 0)"
    assert problems[1:3] == [ended, ended]
    assert problems[3] == "the answer of the process is malformed: too deep"
    assert problems[4:] == [needed, needed]
    assert not any(reply.is_heard for reply in replies)


def test_a_text_moves_no_cursor(directory: Path, peers: Any) -> None:
    """Neither of an answer nor of an error; a long one is cut."""
    evil = "\x1b]0;x\x07\n\u202e" + "y" * 2000
    answer = json.dumps({"answer": [_REQUEST | {"path": evil, "cache": "\x1b[2J"}]})
    error = json.dumps({"error": "Unavailable\x1b", "text": evil})
    place = json.dumps({"answer": [_REQUEST | {"stages": {"\x1b[2J": "x"}}]})
    good, refused, wrong = lying(
        directory, peers, *(text.encode() + b"\n" for text in (answer, error, place))
    )
    assert good.answer[0]["path"] == "?]0;x???" + "y" * 2000
    assert good.answer[0]["cache"] == "?[2J"
    assert refused.is_heard
    assert refused.error == "Unavailable?"
    assert wrong.problem.startswith(
        "the answer of the process is malformed: recent[0].stages.?[2J: only a number"
    )
    for reply in (refused, wrong):
        assert reply.problem.isprintable()
        assert len(reply.problem) <= 303
