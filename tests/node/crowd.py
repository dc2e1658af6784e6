"""Guests of many networks who all ask at once, each as somebody else; run as a process of its own.

Reads the arguments of `ask_all` as a JSON object, and prints its result as another.
"""

import itertools
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from servers.namespace import Namespace

_PATH = "/openstack/latest/meta_data.json"
_PATIENCE = 60.0
_MOST_TOLD = 10


@dataclass(frozen=True)
class Guest:
    """Where a guest is, and who it is."""

    namespace: str
    network: str
    address: str
    instance: str
    project: str
    signature: str  # of its instance id, with the secret that no guest knows


def forgeries(victim: Guest) -> list[bytes]:
    """Header lines for each way of saying in a request: I am the victim (spec 1.2)."""
    identity = [
        f"X-Forwarded-For: {victim.address}",
        f"X-Forwarded-For: 1.2.3.4, {victim.address}",
        f"X-Neutron-Network-ID: {victim.network}",
        f"X-Neutron-Router-ID: {victim.network}",
        f"X-Quantum-Network-ID: {victim.network}",
        f"X-Quantum-Router-ID: {victim.network}",
        f"X-OVN-Network-ID: {victim.network}",
        f"X-Instance-ID: {victim.instance}",
        f"X-Instance-ID-Signature: {victim.signature}",
        f"X-Tenant-ID: {victim.project}",
        f"X-Metadata-Provider: {victim.network}",
        f"X-Metadata-Provider-Signature: {victim.signature}",
        "X-Mdmw-Client-MAC: fa:16:3e:00:00:01",
        f"X-Mdmw-Relay-Signature: 1:{victim.signature}",
        f"Forwarded: for={victim.address};host={victim.instance};proto=https",
        f"X-Real-IP: {victim.address}",
        f"X-Forwarded-Host: {victim.instance}",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Prefix: /latest",
        "X-Auth-Token: forged",
        f"X-Auth-Project-Id: {victim.project}",
        "X-Service-Token: forged",
        f"X-Service-Project-Id: {victim.project}",
        "X-Identity-Status: Confirmed",
        f"X-User-Id: {victim.instance}",
        f"X-Project-Id: {victim.project}",
        "X-Roles: admin",
        "X-Role: admin",
    ]
    one_by_one = [spell(line) for line in identity for spell in _SPELLINGS]
    all_at_once = ["\r\n".join(map(spell, identity)) for spell in _SPELLINGS]
    return [f"{lines}\r\n".encode() for lines in one_by_one + all_at_once + _HOP_BY_HOP]


def _underscored(line: str) -> str:
    name, colon, value = line.partition(":")
    return name.replace("-", "_") + colon + value


_SPELLINGS = (str, str.lower, str.upper, _underscored, lambda line: f"{line}\r\n{line}")
_HOP_BY_HOP = [
    "Connection: X-Forwarded-For, X-Neutron-Network-ID, X-Instance-ID, X-Instance-ID-Signature, X-Tenant-ID",
    "Keep-Alive: timeout=1000",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic Zm9yZ2VkOmZvcmdlZA==",
    "TE: trailers",
    "Trailer: X-Instance-ID",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "Content-Length: 0\r\nExpect: 100-continue",
]


class Asker:
    """A guest that asks again and again, on one connection or on one for each request."""

    def __init__(self, guest: Guest, namespace: Namespace, keeps: bool) -> None:
        self._guest = guest
        self._namespace = namespace
        self._last = b"" if keeps else b"Connection: close\r\n"
        self._sock: socket.socket | None = None

    def ask(self, forged: bytes) -> str:
        """What is wrong with the answer; empty when it is the guest's own."""
        if self._sock is None:
            self._sock = self._namespace.socket(socket.AF_INET)
            self._sock.settimeout(_PATIENCE)
            self._sock.bind((self._guest.address, 0))
            self._sock.connect(("169.254.169.254", 80))
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(
            b"GET %b HTTP/1.1\r\nHost: 169.254.169.254\r\n%b%b\r\n" % (_PATH.encode(), forged, self._last)
        )
        head, body = _response(self._sock)
        if self._last or b"connection: close" in head.lower():
            self.close()
        if not head.startswith(b"HTTP/1.1 200 "):
            return head.partition(b"\r\n")[0].decode()
        document = json.loads(body)
        found = document["uuid"], document["project_id"]
        return "" if found == (self._guest.instance, self._guest.project) else f"that of {found}"

    def close(self) -> None:
        if self._sock:
            self._sock.close()
            self._sock = None


def _response(sock: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next one that is final."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            data += _more(sock)
        head, _, rest = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 1"):
            break
        data = rest
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
    while len(rest) < length:
        rest += _more(sock)
    if len(rest) > length:
        raise ValueError(f"more than was promised: {rest[length:]!r}")
    return head, rest


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("closed before the end")
    return data


@dataclass
class Result:
    """`forged` counts requests, `ways` how many different ones; `wrong` has the first wrong answers."""

    right: int = 0
    forged: int = 0
    ways: int = 0
    wrong_count: int = 0
    wrong: list[str] = field(default_factory=list)


class _Network(threading.Thread):
    """The guests of one network ask in turn; every fourth request has nothing forged."""

    def __init__(self, guests: list[Guest], victims: list[Guest], requests: int, first: int) -> None:
        super().__init__()
        self.result = Result()
        self.tried: set[int] = set()
        self._guests = guests
        self._victims = victims
        self._requests = requests
        self._first = first

    def run(self) -> None:
        namespace = Namespace(self._guests[0].namespace)
        askers = [Asker(guest, namespace, bool(number % 2)) for number, guest in enumerate(self._guests)]
        turns = itertools.cycle(zip(self._guests, askers, strict=True))
        lies = self._lies()
        for number, (guest, asker) in enumerate(itertools.islice(turns, self._requests)):
            forged = b""
            if number % 4:
                way, forged = next(lies)
                self.tried.add(way)
            try:
                what = asker.ask(forged)
            except (OSError, ValueError, KeyError) as error:
                what = repr(error)
                asker.close()
            self._count(what, guest, forged)
        for asker in askers:
            asker.close()
        namespace.close()

    def _lies(self) -> Iterator[tuple[int, bytes]]:
        """All forgeries, again and again, each time with another beginning than in other networks."""
        every = list(enumerate(line for victim in self._victims for line in forgeries(victim)))
        begin = self._first % len(every)
        return itertools.cycle(every[begin:] + every[:begin])

    def _count(self, what: str, guest: Guest, forged: bytes) -> None:
        self.result.forged += bool(forged)
        if not what:
            self.result.right += 1
            return
        self.result.wrong_count += 1
        if len(self.result.wrong) < _MOST_TOLD:
            self.result.wrong.append(f"{guest.address} on {guest.network} with {forged!r}: {what}")


def ask_all(guests: list[Guest], victims: dict[str, list[Guest]], requests: int) -> Result:
    """All networks at the same time, `requests` in each; `victims` are by network."""
    networks: dict[str, list[Guest]] = {}
    for guest in guests:
        networks.setdefault(guest.network, []).append(guest)
    threads = [
        _Network(members, victims[network], requests, 37 * number)
        for number, (network, members) in enumerate(networks.items())
    ]
    for thread in threads:
        thread.start()
    total = Result()
    for thread in threads:
        thread.join()
        total.right += thread.result.right
        total.forged += thread.result.forged
        total.wrong_count += thread.result.wrong_count
        total.wrong += thread.result.wrong
    total.wrong = total.wrong[:_MOST_TOLD]
    total.ways = len(set().union(*(thread.tried for thread in threads)))
    return total


def main() -> None:
    given = json.load(sys.stdin)
    guests = [Guest(*fields) for fields in given["guests"]]
    victims = {key: [Guest(*fields) for fields in of] for key, of in given["victims"].items()}
    print(json.dumps(vars(ask_all(guests, victims, given["requests"]))))


if __name__ == "__main__":
    main()
