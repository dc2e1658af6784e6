"""The W3C's traceparent: https://www.w3.org/TR/trace-context/#traceparent-header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmw.observe.journal import TraceContext, parse

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read(trace, span, is_sampled):
    made = TraceContext(f"{trace:032x}", f"{span:016x}", is_sampled)
    assert parse(str(made)) == made


@given(st.text() | st.from_regex(r"[0-9a-fA-F]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}.?"))
def test_whatever_comes_is_a_valid_context_or_none(text):
    found = parse(text)
    if found is not None:
        assert text[3:52] == f"{found.trace_id}-{found.span_id}"
        assert int(found.trace_id, 16)
        assert int(found.span_id, 16)
        assert text[:2] != "ff"


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [("00", False), ("01", True), ("03", True), ("02", False), ("ff", True)]
)
def test_the_lowest_flag_says_sampled(flags, is_sampled):
    assert parse(f"00-{TRACE}-{SPAN}-{flags}") == TraceContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize("text", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what.the-future.says"])
def test_a_later_version_is_read_as_far_as_it_is_known(text):
    assert str(parse(text)) == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-1",
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"cc-{TRACE}-{SPAN}-01-m\u00f6re",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_not_one_counts_for_nothing(text):
    assert parse(text) is None
