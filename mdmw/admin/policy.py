"""Which operator may do what: rules of oslo.policy in the code, and a file that overrides some rules.

An operation that no rule allows is refused. Every member of a project has the role `reader`, so a reader is
accepted only with a token for the whole system (`system_scope`).
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


_NEVER = "!"

_RULES: Sequence[policy.RuleDefault] = (
    policy.RuleDefault(ADMIN, "role:admin", "Operators who may change something."),
    policy.RuleDefault(
        READER,
        f"rule:{ADMIN} or (role:reader and system_scope:all)",
        "Operators who may read. In Keystone, every user is a reader of their own project, so the token of a "
        "reader must be for the whole system.",
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


@dataclass(frozen=True, slots=True)
class Operator:
    """A user whose request was accepted. `credentials` are for oslo.policy: roles, scope, ids."""

    name: str
    user_id: str = ""
    project_id: str = ""
    credentials: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} ({self.user_id})" if self.user_id else self.name


def list_rules() -> Sequence[policy.RuleDefault]:
    """The rules, for the entry point group `oslo.policy.policies` and its sample generator."""
    return _RULES


class Policy:
    """The rules of the code, and of a file that is read again after a change."""

    def __init__(self, path: str | None) -> None:
        # oslo.policy logs mistakes of a file with tracebacks; the errors that are raised here name the file.
        logging.getLogger("oslo_policy").setLevel(logging.CRITICAL)
        self._file = ReloadingFile(path, _read) if path else None
        self._default = _enforcer({})

    def check(self, operation: Operation, operator: Operator) -> None:
        """Raises `Forbidden` unless the operator may call the operation."""
        enforcer = self._file.value() if self._file else self._default
        if not enforcer.enforce(operation.rule, {}, dict(operator.credentials)):
            raise Forbidden(f"the policy does not allow {operation.rule} to {operator.name}")


def _read(path: Path) -> policy.Enforcer:
    """The rules of the code and of a file; raises `ConfigError`, one line."""
    try:
        given = policy.parse_file_contents(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict) or not all(
        isinstance(text, str) for item in given.items() for text in item
    ):
        raise ConfigError(f"{path}: only names of rules, each with a text, are allowed")
    enforcer = _enforcer(given)
    for name, text in given.items():
        if str(enforcer.rules[name]).count(_NEVER) > text.count(
            _NEVER
        ):  # oslo.policy puts `!` in the place of a mistake
            raise ConfigError(f"{path}: {name}: {text!r} is not a rule of oslo.policy")
    known = {rule.name for rule in _RULES}
    used = " ".join([*given.values()])
    for name in given:
        if name not in known and f"rule:{name}" not in used:
            raise ConfigError(f"{path}: {name}: no operation and no other rule uses this rule")
    if not enforcer.check_rules():
        raise ConfigError(f"{path}: a rule uses itself, or a rule that does not exist")
    return enforcer


def _enforcer(given: dict[str, str]) -> policy.Enforcer:
    """An enforcer with these rules, which reads no files."""
    enforcer = policy.Enforcer(cfg.ConfigOpts(), use_conf=False)
    rules = {rule.name: rule.check_str for rule in _RULES} | given
    enforcer.set_rules(policy.Rules.from_dict(rules), use_conf=False)
    return enforcer
