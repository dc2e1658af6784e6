"""Where the cloud keeps what outlives a run, and what a run alone needs."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

#: Names the directory, and says that the tests of this folder are wanted at all.
VARIABLE = "MDMW_OPENSTACK"
CONSTRAINTS = Path(__file__).parents[1] / "constraints"
_FILLED_BY = ("services.py", "settings.py", "seed.py", "nova_seed.py")


@dataclass(frozen=True)
class State:
    """`kept` has the virtualenvs and the filled databases; `run` is a short path, for sockets, and goes."""

    kept: Path
    run: Path

    @classmethod
    def of_environment(cls, run: Path) -> "State":
        """As the environment variable says."""
        kept = Path(os.environ[VARIABLE]).absolute()
        kept.mkdir(parents=True, exist_ok=True)
        return cls(kept, run)

    @property
    def filled(self) -> Path:
        """Databases, keys and secrets as they were after the first start, as these very sources make them."""
        sources = [*map(Path(__file__).with_name, _FILLED_BY), *sorted(CONSTRAINTS.iterdir())]
        digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
        return self.kept / f"filled-{digest.hexdigest()[:12]}"

    def virtualenv(self, name: str) -> Path:
        """The virtualenv of keystone, neutron or nova."""
        return self.kept / name

    def etc(self, name: str) -> Path:
        """The configuration of one service; it holds passwords."""
        directory = self.run / "etc" / name
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return directory

    def log(self, name: str) -> Path:
        """The log of one service; the last run's can be read until the next one begins."""
        directory = self.kept / "log"
        directory.mkdir(exist_ok=True)
        return directory / f"{name}.log"
