"""What happened to one request: written by whoever takes part, read when it is over.

The first observing filter of a pipeline (access-log, metrics, introspect) begins the journal. While its
request is in this thread or greenlet anybody can write into it with `note` and `note_error`;
without an observer these do nothing. Nobody decides anything by it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mdmw.observe.ids import new_request_id
from mdmw.observe.recording import Journal, here

#: What can be counted with `note`; a closed set, since metrics have a series for each.
CONNECTED = "connected"  # a new connection to an upstream
FAILOVER = "failover"  # an address of an upstream that could not be connected to
RETRIED = "retried"  # a kept connection was dead, and the request was sent again
SECOND_PROOF = "second_proof"  # Nova refused the first secret (S-3)
RESOLVER_CALL = "resolver_call"  # the back end of a resolver was asked
RESOLVER_FAILURE = "resolver_failure"  # and it had no answer
FORGED = "forged"  # headers that claim an identity, removed
NOTES = (CONNECTED, FAILOVER, RETRIED, SECOND_PROOF, RESOLVER_CALL, RESOLVER_FAILURE, FORGED)

#: What the cache had for a source; "" where there is no cache.
HIT, SNAPSHOT, MISS, STALE = "hit", "snapshot", "miss", "stale"
CACHE_OUTCOMES = (HIT, SNAPSHOT, MISS, STALE)


@contextmanager
def kept(journal: Journal) -> Iterator[None]:
    """This journal is the current one, within the block."""
    place = here()
    before, place.journal = place.journal, journal
    try:
        yield
    finally:
        place.journal = before


def current() -> Journal | None:
    """The journal of the request that this thread or greenlet works for."""
    return here().journal


def note(what: str, number: int = 1) -> None:
    """Count one of `NOTES`."""
    journal = current()
    if journal is not None:
        journal.notes = {**journal.notes, what: journal.notes.get(what, 0) + number}


def note_cache(outcome: str) -> None:
    """What the cache had, one of `CACHE_OUTCOMES`; the last one counts."""
    journal = current()
    if journal is not None:
        journal.cache = outcome


def note_error(error: BaseException) -> str:
    """Remember what ended the request, and give the request id under which the logs have it."""
    journal = current()
    if journal is None:
        return new_request_id()
    journal.error = type(error).__name__
    return journal.request_id
