"""Who calls the admin API, as authtoken or local-operator found out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
