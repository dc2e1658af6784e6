"""Who may do what: rules of oslo.policy, from the code, and from a file that overrides some of them.

What no rule allows is refused. A token of any project has the role `reader`, every member of a tenant
has it; so of readers only those of the whole system (`system_scope`) are let in.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_policy import policy

from mdmw.admin.operations import ADMIN, OPERATIONS, READER, Operation
from mdmw.errors import ConfigError, Forbidden
from mdmw.reloading import ReloadingFile

#: Environ key; no header can have such a name.
OPERATOR = "mdmw.operator"


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who was let in. `credentials` are what oslo.policy asks for: roles, scope, ids."""

    name: str
    user_id: str = ""
    project_id: str = ""
    credentials: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} ({self.user_id})" if self.user_id else self.name


_NEVER = "!"

_RULES: Sequence[policy.RuleDefault] = (
    policy.RuleDefault(ADMIN, "role:admin", "Who may change things."),
    policy.RuleDefault(
        READER,
        f"rule:{ADMIN} or (role:reader and system_scope:all)",
        "Who may look. In Keystone everybody is a reader of their own project, so that alone is not enough.",
    ),
    *(
        policy.DocumentedRuleDefault(
            operation.rule,
            f"rule:{operation.may}",
            operation.about,
            [{"path": operation.path, "method": operation.method}],
        )
        for operation in OPERATIONS
    ),
)

# What it finds wrong it logs in its own way, with tracebacks; the error that is raised here names the file.
logging.getLogger("oslo_policy").setLevel(logging.CRITICAL)


def list_rules() -> Sequence[policy.RuleDefault]:
    """For the entry point group `oslo.policy.policies`: the sample generator reads it."""
    return _RULES


class Policy:
    """The rules of the code, and of a file that is read again when it changes."""

    def __init__(self, path: str | None) -> None:
        self._file = ReloadingFile(path, _read) if path else None
        self._default = _enforcer({})

    def check(self, operation: Operation, operator: Operator) -> None:
        """Raises `Forbidden`."""
        enforcer = self._file.value() if self._file else self._default
        if not enforcer.enforce(operation.rule, {}, dict(operator.credentials)):
            raise Forbidden(f"{operator.name} is not allowed {operation.rule} by policy")


def _read(path: Path) -> policy.Enforcer:
    """The rules with those of a file; raises `ConfigError`, one line."""
    try:
        given = policy.parse_file_contents(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict) or not all(
        isinstance(text, str) for item in given.items() for text in item
    ):
        raise ConfigError(f"{path}: names of rules, each with a text, are allowed")
    enforcer = _enforcer(given)
    for name, text in given.items():
        if str(enforcer.rules[name]).count(_NEVER) > text.count(_NEVER):  # it stands for what makes no sense
            raise ConfigError(f"{path}: {name}: {text!r} is not a rule of oslo.policy")
    known = {rule.name for rule in _RULES}
    used = " ".join([*given.values()])
    for name in given:
        if name not in known and f"rule:{name}" not in used:
            raise ConfigError(f"{path}: {name}: no operation has this rule, and no other rule uses it")
    if not enforcer.check_rules():
        raise ConfigError(f"{path}: a rule uses one that is not there, or itself")
    return enforcer


def _enforcer(given: dict[str, str]) -> policy.Enforcer:
    """Without files of its own: what it would read, and when, is decided here."""
    enforcer = policy.Enforcer(cfg.ConfigOpts(), use_conf=False)
    rules = {rule.name: rule.check_str for rule in _RULES} | given
    enforcer.set_rules(policy.Rules.from_dict(rules), use_conf=False)
    return enforcer
