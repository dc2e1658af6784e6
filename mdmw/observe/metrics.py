"""Metrics: numbers of each process, in a directory of files of prometheus_client's multi-process mode.

prometheus_client's own writing side depends on an environment variable at the first import and on state of
the module, so mdmw writes the files itself, a few times a second. A process holds the lock of its file
`ID.live` as long as the process lives, so a process id that is used again deceives nobody. The counts of
processes that have ended are added up in files of their own; the gauges of such processes are dropped.
A process that adds, removes or reads files holds the lock of the directory.
"""

import logging
import os
import secrets
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from oslo_config import cfg
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from mdmw.locking import lock, try_lock, unlock
from mdmw.observe.background import Background, OncePerMinute
from mdmw.observe.counters import CLASSES, Counters, PipelineCounters
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
    Measurement,
    Name,
    Series,
    error_label,
    stage_label,
    status_label,
)

LOG = logging.getLogger(__name__)

METRICS_DIR = cfg.StrOpt(
    "metrics_dir",
    default="/run/mdmw/metrics",
    help="Directory in which serving processes write the numbers of their metrics. The filters metrics and "
    "exposition need the same directory and the same user. mdmw makes the directory with mode 0700 if it "
    "does not exist. A process that cannot write there says so in its log, and serves without metrics.",
)

_PATIENCE = 2.0  # seconds; there is never much to do with the lock
_LOCK = "lock"
_LIVE = ".live"
_GONE = "gone"
_ONLY_OWNER = 0o700
_ADDED_UP = ("counter", "histogram")
_BOUNDS = [*map(floatToGoString, BUCKETS), "+Inf"]
_WRITE_EVERY = 1.0  # seconds, also without requests: gauges change by themselves
# Errors of which one is too many: they are there as 0 from the start.
_ALARMING = (
    *(("forward", "refused"), ("verify", "refused"), ("resolve", "overloaded"), ("forward", "overloaded")),
    *((stage, "defect") for stage in STAGES),
)


class ProcessFiles:
    """The files of this process in `directory`, which is made; raises OSError.

    One thread at a time may write.
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
    """Add the numbers of several files up in one. If the process is killed meanwhile, counters begin anew."""
    sums: defaultdict[str, float] = defaultdict(float)
    for path in paths:
        try:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
                sums[key] += value
        except (RuntimeError, ValueError, struct.error) as error:
            LOG.warning("%s is not a file of metrics and is removed: %s", path, error)
    new = directory / f"{kind}.new"
    new.unlink(missing_ok=True)
    sums_file = MmapedDict(str(new))
    for key, value in sums.items():
        sums_file.write_value(key, value, 0.0)
    sums_file.close()
    for path in paths:
        path.unlink()
    new.rename(directory / f"{kind}_{_GONE}.db")


class Metrics:
    """An observer that counts the requests of a pipeline, and writes the numbers below `directory`.

    `measure` gives what the stages of the pipeline measure now.
    """

    def __init__(
        self, directory: Path, pipeline: str, measure: Callable[[], Iterable[Measurement]] = tuple
    ) -> None:
        self._directory = directory
        self._pipeline = pipeline
        self._measure = measure
        self._totals = Totals(pipeline)
        self._files: ProcessFiles | None = None
        self._lines = OncePerMinute()
        self._background = Background(self._write, "mdmw-metrics", every=_WRITE_EVERY)
        self.flush = self._background.run

    def over(self, journals: Sequence[Journal]) -> None:
        """Take the requests that are over (`Observer.over`)."""
        self._totals.add(journals)
        self._background.ask()

    def forget(self) -> None:
        """Drop what the parent of this forked child had counted (`Observer.forget`)."""
        self._totals = Totals(self._pipeline)
        self._let_go()

    def close(self) -> None:
        """Finish, since the process or the pipeline ends (`Observer.close`)."""
        self._background.close()
        self._let_go()

    def _write(self) -> None:
        """Numbers that cannot be written now are written when they can be."""
        try:
            files = self._files = self._files or ProcessFiles(self._directory)
        except OSError as error:
            if self._lines.due(self._directory):
                why = error.strerror or error
                LOG.warning("%s: metrics cannot be written: %s (said once a minute)", self._directory, why)
            return
        gauges: dict[Name, float] = {(PROCESSES, (self._pipeline,)): 1}
        counts = dict(self._totals.numbers())
        for series, labels, value in self._measure():
            if series.kind == "counter":
                name = (series, (self._pipeline, *labels))
                counts[name] = counts.get(name, 0) + value
            elif series.of_processes == "livemin":
                gauges[series, labels] = min(value, gauges.get((series, labels), value))
            else:
                gauges[series, labels] = gauges.get((series, labels), 0) + value
        for (series, labels), number in counts.items():
            files.count(series, labels, number)
        for (series, labels), durations, seconds in self._totals.histograms():
            files.histogram(series, labels, durations, seconds)
        files.set(gauges)

    def _let_go(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            files.close()


class Totals:
    """The numbers of a pipeline since the process began: requests, errors, notes, durations."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._counts = PipelineCounters(BUCKETS)
        self._events = self._at_first()
        self.add = self._counts.add

    def numbers(self) -> Iterator[tuple[Name, float]]:
        """The counters: requests, errors, outcomes of the cache, notes."""
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
        """Durations of requests and of stages: how many up to each bound and above, and seconds in all."""
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
        """What never happened is 0, so that an alert sees the first time."""
        events: Counter[Name] = Counter()
        events.update({(series, (self._pipeline,)): 0 for series in NOTED.values()})
        events.update({(ERRORS, (self._pipeline, stage, error)): 0 for stage, error in _ALARMING})
        return events
