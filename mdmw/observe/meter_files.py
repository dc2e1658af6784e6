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
from collections import defaultdict
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
from mdmw.observe.gauges import Name
from mdmw.observe.series import BUCKETS, Series

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
