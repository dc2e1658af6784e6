"""One request id, and one trace, through all processes that a request passes.

What a guest says of them counts for nothing. A trusted hop is one that proved itself, or that
the operator trusts; the filter that knows which calls `take_over`.
"""

from mdmw import wire
from mdmw.observe.recording import Journal
from mdmw.observe.trace_context import TraceContext, parse
from mdmw.records import JOURNAL, Environ

_ID_NAME = wire.REQUEST_ID.lower()
_ID_LENGTH = len(_ID_NAME)


def take_over(environ: Environ) -> None:
    """The request comes from a trusted hop: its id goes on, and its trace."""
    journal: Journal | None = environ.get(JOURNAL)
    if journal is None:
        return
    journal.request_id = wire.request_id(environ.get(wire.REQUEST_ID_KEY, "")) or journal.request_id
    given = parse(environ.get(wire.TRACEPARENT_KEY, ""))
    if given is None:
        return
    journal.parent_span = given.span_id
    span_id = journal.trace.span_id if journal.trace else given.span_id
    journal.trace = TraceContext(given.trace_id, span_id, given.is_sampled)


def onward(environ: Environ) -> wire.Headers:
    """The headers for the next hop; none where nobody keeps a journal."""
    journal: Journal | None = environ.get(JOURNAL)
    if journal is None:
        return []
    headers = [(wire.REQUEST_ID, journal.request_id)]
    if journal.trace:
        headers.append((wire.TRACEPARENT, str(journal.trace)))
    return headers


def answered(headers: wire.Headers, environ: Environ) -> None:
    """The next hop answered with these; one that did not trust our id has its own, which then counts."""
    journal: Journal | None = environ.get(JOURNAL)
    if journal is None:
        return
    for name, value in headers:
        if len(name) == _ID_LENGTH and name.lower() == _ID_NAME:
            journal.request_id = wire.request_id(value) or journal.request_id
