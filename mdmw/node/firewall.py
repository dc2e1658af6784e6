"""The rules of a router's namespace, as they are and as they shall be, by `nft` or `iptables`.

All of it acts in the namespace of the calling thread, and raises `CommandError` or OSError.
"""

import struct
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from mdmw.node.actions import Firewall
from mdmw.node.namespaces import CommandError, run
from mdmw.node.netlink import attributes, dump
from mdmw.node.network_state import sysctl
from mdmw.node.rules import TABLE, RouterRules, iptables, nftables, nftables_comments

T = TypeVar("T")

#: What `has` compares: the rules of each chain of ours, and how often its hook leads there.
Seen = Mapping[str, tuple[list[str], int]]

_IPTABLES = {4: "iptables", 6: "ip6tables"}
_TABLES = ("mangle", "nat", "filter")

# linux/netlink.h, netfilter.h, netfilter/nfnetlink.h, netfilter/nf_tables.h; libnftnl's udata.h
_NETFILTER, _INET, _NFTABLES = 12, 1, 10
_NETFILTER_HEAD = struct.Struct("!BBH")  # family, version, resource
_GET_CHAIN, _CHAIN_TABLE, _CHAIN_NAME = 4, 1, 3
_GET_RULE, _RULE_TABLE, _RULE_CHAIN, _RULE_NOTES = 7, 1, 2, 7
_COMMENT = b"\0"


def is_set(firewall: Firewall, rules: RouterRules) -> bool:
    """Whether exactly these rules are there."""
    if firewall == "nftables":
        return _nftables_now() == nftables_comments(rules)
    return all(_iptables_now(v) == _iptables_wanted(rules, v) for v in _versions())


def set_rules(firewall: Firewall, rules: RouterRules) -> None:
    """Put exactly these in place of whatever is there of ours, each IP version in one transaction."""
    if firewall == "nftables":
        run("nft", "-f", "-", stdin=nftables(rules))
        return
    for version in _versions():
        _restore(version, _iptables_wanted(rules, version))


def remove_rules(firewall: Firewall) -> None:
    """Nothing of ours stays."""
    if firewall == "nftables":
        run("nft", "-f", "-", stdin=f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n")
        return
    for version in _versions():
        _restore(version, {})


# --- nftables ---------------------------------------------------------------------------


def _nftables_now() -> dict[str, list[str]]:
    """Chain -> comment of each rule of our table; that of a rule without one is empty."""
    chains = _nftables_dump(_GET_CHAIN, _of_chain)
    found: dict[str, list[str]] = {name: [] for table, name in chains if table == TABLE}
    for table, chain, comment in _nftables_dump(_GET_RULE, _of_rule) if found else ():
        if table == TABLE:
            found.setdefault(chain, []).append(comment)
    return found


def _nftables_dump(kind: int, parse: Callable[[bytes], T]) -> list[T]:
    return dump(_NETFILTER, _NFTABLES << 8 | kind, _NETFILTER_HEAD.pack(_INET, 0, 0), parse)


def _of_chain(body: bytes) -> tuple[str, str]:
    found = attributes(body, _NETFILTER_HEAD.size)
    return _word(found[_CHAIN_TABLE]), _word(found[_CHAIN_NAME])


def _of_rule(body: bytes) -> tuple[str, str, str]:
    found = attributes(body, _NETFILTER_HEAD.size)
    noted = found.get(_RULE_NOTES, b"")
    is_comment = noted[:1] == _COMMENT  # one byte of type, one of length
    comment = noted[2 : 2 + noted[1]] if is_comment else b""
    return _word(found[_RULE_TABLE]), _word(found[_RULE_CHAIN]), _word(comment)


def _word(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


# --- iptables ---------------------------------------------------------------------------


def _versions() -> tuple[int, ...]:
    """A kernel without IPv6 has no ip6tables."""
    return (4, 6) if sysctl("ipv6/conf/all/disable_ipv6") is not None else (4,)


def _iptables_wanted(rules: RouterRules, version: int) -> dict[str, tuple[list[str], int]]:
    if version not in rules.versions:
        return {}
    return {key: (body, 1) for key, body in iptables(rules, version).items() if body}


def _iptables_now(version: int) -> dict[str, tuple[list[str], int]]:
    """`table/HOOK` -> rules of our chain, and how many jumps lead to it."""
    found: dict[str, tuple[list[str], int]] = {}
    table = ""
    for line in _output(f"{_IPTABLES[version]}-save").splitlines():
        words = line.split()
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(f":{TABLE}-"):
            found.setdefault(_key(table, words[0][1:]), ([], 0))
        elif line.startswith(f"-A {TABLE}-"):
            found[_key(table, words[1])][0].append(" ".join(words[2:]))
        elif line.startswith("-A ") and words[2:3] == ["-j"] and words[3].startswith(f"{TABLE}-"):
            key = _key(table, words[3])
            body, jumps = found.setdefault(key, ([], 0))
            found[key] = (body, jumps + 1)
    return found


def _restore(version: int, wanted: Seen) -> None:
    """One call for all tables. Naming a chain of ours empties it; the others stay as they are."""
    now = _iptables_now(version)
    lines = []
    for table in _TABLES:
        keys = [key for key in sorted({*now, *wanted}) if key.startswith(f"{table}/")]
        if keys:
            lines += [f"*{table}", *_table_lines(keys, now, wanted), "COMMIT"]
    if lines:
        stdin = "\n".join([*lines, ""])
        run(f"{_IPTABLES[version]}-restore", "--noflush", "--wait", "10", stdin=stdin)


def _table_lines(keys: list[str], now: Seen, wanted: Seen) -> Iterable[str]:
    for key in keys:
        yield f":{_chain(key)} - [0:0]"
    for key in keys:
        hook = key.partition("/")[2]
        body, jumps = wanted.get(key, ([], 0))
        there = now.get(key, ([], 0))[1]
        yield from (f"-D {hook} -j {_chain(key)}" for _ in range(there - jumps))
        yield from (f"-A {_chain(key)} {rule}" for rule in body)
        if jumps > there:
            yield f"-I {hook} 1 -j {_chain(key)}"  # before what others may accept
        if not jumps:
            yield f"-X {_chain(key)}"


def _chain(key: str) -> str:
    return f"{TABLE}-{key.partition('/')[2]}"


def _key(table: str, chain: str) -> str:
    return f"{table}/{chain.removeprefix(f'{TABLE}-')}"


def _output(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - no shell
    if done.returncode:
        raise CommandError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
