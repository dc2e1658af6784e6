"""The address of an upstream: a unix socket, or a host and port."""

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Literal

_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]\s/@\x00-\x1f\x7f]+))(?::(?P<port>[0-9]{1,5}))?"
)
_LONGEST_PATH = 107  # sun_path of unix(7), less the final NUL


@dataclass(frozen=True, slots=True)
class Address:
    """`unix` has a path. `http` and `https` have a host, without brackets, and a port."""

    scheme: Literal["unix", "http", "https"]
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def authority(self) -> str:
        """The value of the Host header. For a unix socket it is the metadata address (spec 1.1)."""
        if self.scheme == "unix":
            return "169.254.169.254"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.scheme == "unix" else f"{self.scheme}://{self.authority}"


def parse_address(text: str, scheme: Literal["http", "https"], default_port: int) -> Address:
    """`unix:/path`, `host`, `host:port`, `10.0.0.1:8775`, `[::1]:8775` or a bare `::1`.

    Raises ValueError, which says what is allowed.
    """
    text = text.strip()
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{text!r}: the path of a unix socket must be absolute")
        if len(os.fsencode(path)) > _LONGEST_PATH or "\0" in path:
            raise ValueError(f"{text!r}: the path of a unix socket is no longer than {_LONGEST_PATH} bytes")
        return Address("unix", path=path)
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    match = _HOST_PORT.fullmatch(text)
    port = int(match["port"] or default_port) if match else 0
    if not match or not 0 < port < 65536 or not _is_ipv6(match["v6"]):
        raise ValueError(f"{text!r} is not an address; allowed are unix:/path, host, host:port, [ipv6]:port")
    return Address(scheme, match["v6"] or match["host"], port)


def _is_ipv6(text: str | None) -> bool:
    try:
        return text is None or bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False
