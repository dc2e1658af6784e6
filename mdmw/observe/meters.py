"""Counting requests, and putting the numbers where Prometheus finds them a few times a second."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mdmw.observe import gauges
from mdmw.observe.counting import CLASSES, Counters, ForAll
from mdmw.observe.gauges import Name
from mdmw.observe.journal import CACHE_OUTCOMES
from mdmw.observe.meter_files import ProcessFiles
from mdmw.observe.recording import Journal
from mdmw.observe.seldom import Seldom
from mdmw.observe.series import (
    BUCKETS,
    CACHE,
    ERRORS,
    NOTED,
    OTHER,
    PROCESSES,
    REQUEST_SECONDS,
    REQUESTS,
    STAGE_SECONDS,
    STAGES,
    error_label,
    stage_label,
    status_label,
)

LOG = logging.getLogger(__name__)

_LOOK_EVERY = 1.0  # seconds between two looks at the gauges
# Errors of which one is too many.
_ALARMING = (
    *(("forward", "refused"), ("verify", "refused"), ("resolve", "overloaded"), ("forward", "overloaded")),
    *((stage, "defect") for stage in STAGES),
)


class Meters:
    """An observer that counts the requests of a pipeline, in files below `directory`."""

    def __init__(self, directory: Path, pipeline: str) -> None:
        self._directory = directory
        self._pipeline = pipeline
        self._totals = Totals(pipeline)
        self._files: ProcessFiles | None = None
        self._seldom = Seldom()
        self.over = self._totals.over

    def flush(self) -> None:
        """As `Observer`. What could not be written is written when it can be."""
        try:
            files = self._files or self._open()
        except OSError as error:
            if self._seldom.due(self._directory):
                why = error.strerror or error
                LOG.warning("%s: metrics cannot be shown: %s (said once a minute)", self._directory, why)
            return
        for (series, labels), number in self._totals.numbers():
            files.count(series, labels, number)
        for (series, labels), durations, seconds in self._totals.histograms():
            files.histogram(series, labels, durations, seconds)

    def forget(self) -> None:
        """As `Observer`."""
        self._totals.forget()
        if self._files:
            self._files.close()
            self._files = None

    def _open(self) -> ProcessFiles:
        """When a process has its first requests."""
        files = ProcessFiles(self._directory)
        files.set({(PROCESSES, (self._pipeline,)): 1})
        self._files = files
        threading.Thread(target=self._look, args=[files], name="mdmw-gauges", daemon=True).start()
        return files

    def _look(self, files: ProcessFiles) -> None:
        pause = threading.Event()
        while True:
            files.set(gauges.read())
            pause.wait(_LOOK_EVERY)


class Totals:
    """What there is to count in a pipeline; `over` and `forget` are as of an `Observer`."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._counts = ForAll(BUCKETS)
        self._events = self._at_first()
        self.over = self._counts.over

    def forget(self) -> None:
        """As `Observer`."""
        self._counts.forget()
        self._events = self._at_first()

    def numbers(self) -> Iterator[tuple[Name, int]]:
        """Requests, errors, and what happened on their way, since the process began."""
        for journal in self._counts.take_eventful():
            self._take(journal)
        requests = Counter({"2xx": 0, "4xx": 0, "5xx": 0})
        for name, number in zip(CLASSES, self._counts.requests.classes, strict=True):
            if number:
                requests[status_label(name)] += number
        for status, number in requests.items():
            yield (REQUESTS, (self._pipeline, status)), number
        for outcome in CACHE_OUTCOMES:
            yield (CACHE, (self._pipeline, outcome)), self._counts.caches.get(outcome, 0)
        yield from self._events.items()

    def histograms(self) -> Iterator[tuple[Name, list[int], float]]:
        """How many lasted up to each bound, or longer, and seconds in all: of requests, and of stages."""
        requests = self._counts.requests
        yield (REQUEST_SECONDS, (self._pipeline,)), requests.durations, requests.seconds
        labelled: dict[str, list[Counters]] = {}
        for stage, counters in self._counts.stages.copy().items():
            labelled.setdefault(stage_label(stage), []).append(counters)
        for label, several in labelled.items():
            durations = [sum(counts) for counts in zip(*(one.durations for one in several), strict=True)]
            yield (STAGE_SECONDS, (self._pipeline, label)), durations, sum(one.seconds for one in several)

    def _take(self, journal: Journal) -> None:
        if journal.error:
            stage = next(reversed([*journal.stages]), OTHER)
            self._events[ERRORS, (self._pipeline, stage_label(stage), error_label(journal.error))] += 1
        for what, number in journal.notes.items():
            if what in NOTED:
                self._events[NOTED[what], (self._pipeline,)] += number

    def _at_first(self) -> Counter[Name]:
        """What never happened is 0, so that its first time shows."""
        events: Counter[Name] = Counter()
        events.update({(series, (self._pipeline,)): 0 for series in NOTED.values()})
        events.update({(ERRORS, (self._pipeline, stage, error)): 0 for stage, error in _ALARMING})
        return events
