"""What the parts of the walk write down; threads only ever add to it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from mdmw.doctor.findings import Finding
from mdmw.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Notes:
    """`checked`: what was looked at; `left_out`: what could not be, and why."""

    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def omit(self, undone: Mapping[str, str]) -> None:
        """What was not done, and why."""
        self.left_out.extend(f"{name}: {why}" for name, why in undone.items())

    def read(self, read: Callable[[], T], otherwise: T) -> T:
        """What `read` returns; a file that cannot be used is a finding, and the walk goes on."""
        try:
            return read()
        except ConfigError as error:
            if os.geteuid():  # it may be readable by root alone
                self.left_out.append(str(error))
                return otherwise
            where, _, what = str(error).partition(": ")
            mend = ("mdmw check", "# and what the daemon says of it: journalctl -u 'mdmw*' -n 20")
            self.findings.append(Finding("configuration", where, what or where, "it was read", mend))
            return otherwise
