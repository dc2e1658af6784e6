"""Counting requests: many at once, a few times a second, so that no request pays for it."""

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from mdmw.observe import gauges
from mdmw.observe.gauges import Name
from mdmw.observe.journal import CACHE_OUTCOMES
from mdmw.observe.meter_files import ProcessFiles
from mdmw.observe.recording import Journal
from mdmw.observe.series import (
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
        self._files: ProcessFiles | None = None
        os.register_at_fork(after_in_child=self._forget)

    def over(self, journals: Sequence[Journal]) -> None:
        """As `Observer`."""
        files = self._files or self._open()
        counts, durations = tally(self._pipeline, journals)
        for (series, labels), number in counts.items():
            files.add(series, labels, number)
        for (series, labels), values in durations.items():
            files.observe(series, labels, values)

    def _open(self) -> ProcessFiles:
        """When a process has its first requests. What never happened is 0, so that its first time shows."""
        files = ProcessFiles(self._directory)
        pipeline = self._pipeline
        for status in ("2xx", "4xx", "5xx"):
            files.add(REQUESTS, (pipeline, status), 0)
        for outcome in CACHE_OUTCOMES:
            files.add(CACHE, (pipeline, outcome), 0)
        for series in NOTED.values():
            files.add(series, (pipeline,), 0)
        for stage, error in _ALARMING:
            files.add(ERRORS, (pipeline, stage, error), 0)
        files.set({(PROCESSES, (pipeline,)): 1})
        self._files = files
        threading.Thread(target=self._look, args=[files], name="mdmw-gauges", daemon=True).start()
        return files

    def _look(self, files: ProcessFiles) -> None:
        pause = threading.Event()
        while True:
            files.set(gauges.read())
            pause.wait(_LOOK_EVERY)

    def _forget(self) -> None:
        """In a forked child: the files are the parent's."""
        if self._files:
            self._files.close()
            self._files = None


def tally(pipeline: str, journals: Sequence[Journal]) -> tuple[Counter[Name], dict[Name, list[float]]]:
    """What there is to count, and durations in seconds."""
    counts: Counter[Name] = Counter()
    stages: defaultdict[str, list[float]] = defaultdict(list)
    for journal in journals:
        for stage, seconds in journal.stages.items():
            stages[stage].append(seconds)
        if journal.error:
            counts[ERRORS, (pipeline, _last_stage(journal), error_label(journal.error))] += 1
        if journal.notes:
            for what, number in journal.notes.items():
                if what in NOTED:
                    counts[NOTED[what], (pipeline,)] += number
    for status, number in Counter([journal.status for journal in journals]).items():
        counts[REQUESTS, (pipeline, status_label(status))] += number
    for outcome, number in Counter([journal.cache for journal in journals]).items():
        if outcome in CACHE_OUTCOMES:
            counts[CACHE, (pipeline, outcome)] += number
    durations: dict[Name, list[float]] = {
        (REQUEST_SECONDS, (pipeline,)): [journal.seconds for journal in journals]
    }
    for stage, values in stages.items():
        durations.setdefault((STAGE_SECONDS, (pipeline, stage_label(stage))), []).extend(values)
    return counts, durations


def _last_stage(journal: Journal) -> str:
    return stage_label(next(reversed([*journal.stages]), OTHER))
