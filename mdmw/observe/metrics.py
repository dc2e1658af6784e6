"""A directory of numbers in the files of prometheus_client's multi-process mode, some for each process.

Written without its global state: nothing depends on an environment variable at the first import, and
what a process has counted in all is written a few times a second. A process holds the lock of its
`ID.live` as long as it lives, so that a process id used again deceives nobody. What those that are
gone have counted is added up in files of its own; their gauges are dropped. Whoever adds, removes or
reads files has the lock of the directory.
"""

import logging
import os
import secrets
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from oslo_config import cfg
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from mdmw.locking import lock, try_lock, unlock
from mdmw.observe.background import Seldom
from mdmw.observe.counters import CLASSES, Counters, ForAll
from mdmw.observe.journal import CACHE_OUTCOMES, Journal
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
    Name,
    Series,
    error_label,
    read,
    stage_label,
    status_label,
)

LOG = logging.getLogger(__name__)

METRICS_DIR = cfg.StrOpt(
    "metrics_dir",
    default="/run/mdmw/metrics",
    help="Directory in which processes leave what they count; the same for metrics and exposition, whose "
    "processes have the same user. Made with mode 0700 if it is not there. A process that cannot write "
    "there says so in the log, and serves without.",
)

_PATIENCE = 2.0  # seconds; there is never much to do with the lock
_LOCK = "lock"
_LIVE = ".live"
_GONE = "gone"
_ONLY_OWNER = 0o700
_ADDED_UP = ("counter", "histogram")
_BOUNDS = [*map(floatToGoString, BUCKETS), "+Inf"]


class ProcessFiles:
    """The files of this process in `directory`, which is made; raises OSError.

    One thread may count, and another one set gauges.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(_ONLY_OWNER, exist_ok=True)
        (directory / _LOCK).touch()
        with _locked(directory):
            _add_up_the_gone(directory)
            name = f"{os.getpid()}-{secrets.token_hex(4)}"
            with ExitStack() as opened:  # all of them, or none
                self._live = opened.enter_context((directory / f"{name}{_LIVE}").open("ab"))
                try_lock(self._live.fileno())
                self._files: dict[str, MmapedDict] = {}
                for kind in (*_ADDED_UP, "gauge_livesum", "gauge_livemin"):
                    self._files[kind] = MmapedDict(str(directory / f"{kind}_{name}.db"))
                    opened.callback(self._files[kind].close)
                opened.pop_all()

    def count(self, series: Series, labels: tuple[str, ...], number: float) -> None:
        """What a counter has come to."""
        self._put(series.kind, _key(series, series.name, labels), number)

    def histogram(
        self, series: Series, labels: tuple[str, ...], numbers: Sequence[int], total: float
    ) -> None:
        """What a histogram has come to: how many up to each of `BUCKETS` and above; all values added up."""
        for bound, number in zip(_BOUNDS, numbers, strict=True):
            self._put("histogram", _key(series, f"{series.name}_bucket", labels, bound), number)
        self._put("histogram", _key(series, f"{series.name}_sum", labels), total)

    def set(self, numbers: Mapping[Name, float]) -> None:
        """Gauges as they are now."""
        for (series, labels), value in numbers.items():
            self._put(f"gauge_{series.of_processes}", _key(series, series.name, labels), value)

    def close(self) -> None:
        """Let go, as when the process ends."""
        for file in self._files.values():
            file.close()
        self._live.close()

    def _put(self, kind: str, key: str, number: float) -> None:
        self._files[kind].write_value(key, number, 0.0)


def collect(directory: Path) -> list[Metric]:
    """What all processes have counted, and the gauges of those that live; raises OSError."""
    if not (directory / _LOCK).exists():
        return []
    with _locked(directory):
        if (
            directory.stat().st_uid == os.geteuid()
        ):  # root only looks, and writes nothing in what is another's
            _add_up_the_gone(directory)
        gone = _of_the_gone(directory)
        shown = [path for path in directory.glob("*.db") if path not in gone or not _is_gauge(path)]
        return list(MultiProcessCollector.merge(map(str, shown)))


@cache
def _key(series: Series, sample: str, labels: tuple[str, ...], bound: str | None = None) -> str:
    family = series.name.removesuffix("_total") if series.kind == "counter" else series.name
    names, values = series.labels, labels
    if bound is not None:
        names, values = (*names, "le"), (*values, bound)
    return mmap_key(family, sample, list(names), list(values), series.help)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / _LOCK).open("rb") as file:
        lock(file.fileno(), _PATIENCE)
        try:
            yield
        finally:
            unlock(file.fileno())


def _of_the_gone(directory: Path) -> set[Path]:
    """The files of processes that are gone, also those in which they were added up."""
    living = {path.stem for path in directory.glob(f"*{_LIVE}") if _is_held(path)}
    return {path for path in directory.glob("*.db") if path.stem.rpartition("_")[2] not in living}


def _is_gauge(path: Path) -> bool:
    return path.name.startswith("gauge_")


def _add_up_the_gone(directory: Path) -> None:
    files = _of_the_gone(directory)
    if all(path.stem.endswith(f"_{_GONE}") for path in files):
        return
    for kind in _ADDED_UP:
        _add_up([path for path in files if path.name.startswith(f"{kind}_")], directory, kind)
    for path in filter(_is_gauge, files):
        path.unlink()
    for path in directory.glob(f"*{_LIVE}"):
        if not _is_held(path):
            path.unlink()


def _is_held(live: Path) -> bool:
    with live.open("rb") as file:
        return not try_lock(file.fileno())


def _add_up(paths: Sequence[Path], directory: Path, kind: str) -> None:
    """Put what is in several files into one. If that is killed in the middle, counters begin anew."""
    sums: defaultdict[str, float] = defaultdict(float)
    for path in paths:
        try:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
                sums[key] += value
        except (RuntimeError, ValueError, struct.error) as error:
            LOG.warning("%s makes no sense and is removed: %s", path, error)
    new = directory / f"{kind}.new"
    new.unlink(missing_ok=True)
    together = MmapedDict(str(new))
    for key, value in sums.items():
        together.write_value(key, value, 0.0)
    together.close()
    for path in paths:
        path.unlink()
    new.rename(directory / f"{kind}_{_GONE}.db")


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
            files.set(read())
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
