"""The packet-filter rules of a router's namespace: as text for nftables or iptables, read, set and removed.

All functions but `nftables`, `nftables_comments` and `iptables` act in the namespace of the calling thread,
and raise `CommandError` or OSError.
"""

import hashlib
import struct
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from mdmw.netlink import attributes, dump
from mdmw.node.desired import Firewall
from mdmw.node.namespaces import CommandError, run
from mdmw.node.network_state import sysctl
from mdmw.node.plan import RouterRules
from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6

T = TypeVar("T")

#: Name of the chain -> its rules, and how many jumps from the hook lead to the chain.
Chains = Mapping[str, tuple[list[str], int]]

TABLE = "mdmw"
_MASK = 0xFFFF
_GUEST_DEVICES = "qr-"  # internal interfaces of a router; a packet to a floating address never arrives here
_FAMILIES = {4: ("ip", f"{METADATA_ADDRESS}/32"), 6: ("ip6", f"{METADATA_ADDRESS_V6}/128")}

_IPTABLES = {4: "iptables", 6: "ip6tables"}
_IPTABLES_TABLES = ("mangle", "nat", "filter")

# linux/netlink.h, netfilter.h, netfilter/nfnetlink.h, netfilter/nf_tables.h; libnftnl's udata.h
_NETFILTER, _INET, _NFTABLES = 12, 1, 10
_NETFILTER_HEAD = struct.Struct("!BBH")  # family, version, resource
_GET_CHAIN, _CHAIN_TABLE, _CHAIN_NAME = 4, 1, 3
_GET_RULE, _RULE_TABLE, _RULE_CHAIN, _RULE_NOTES = 7, 1, 2, 7
_COMMENT = b"\0"


def is_set(firewall: Firewall, rules: RouterRules) -> bool:
    """Whether the namespace has exactly these rules of mdmw."""
    if firewall == "nftables":
        return _nftables_found() == nftables_comments(rules)
    return all(_iptables_found(v) == _iptables_desired(rules, v) for v in _versions())


def set_rules(firewall: Firewall, rules: RouterRules) -> None:
    """Replace all rules of mdmw by these rules, in one transaction for each IP version."""
    if firewall == "nftables":
        run("nft", "-f", "-", stdin=nftables(rules))
        return
    for version in _versions():
        _restore(version, _iptables_desired(rules, version))


def remove_rules(firewall: Firewall) -> None:
    """Remove all rules of mdmw."""
    if firewall == "nftables":
        run("nft", "-f", "-", stdin=f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n")
        return
    for version in _versions():
        _restore(version, {})


# --- nftables ---------------------------------------------------------------------------


def nftables(rules: RouterRules) -> str:
    """One transaction for `nft -f -`, which replaces the table of mdmw as a whole."""
    lines = [f"table inet {TABLE} {{}}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for name, (head, body) in _nftables_chains(rules).items():
        lines += [f"\tchain {name} {{", f"\t\t{head}", *(f"\t\t{line}" for line in body), "\t}"]
    return "\n".join([*lines, "}", ""])


def nftables_comments(rules: RouterRules) -> dict[str, list[str]]:
    """Chain -> the comment of each rule.

    The comments identify the rules, because `nft list` shows a rule in other words than it was written.
    """
    chains = _nftables_chains(rules)
    return {name: [line.rsplit('"', 2)[1] for line in body] for name, (_, body) in chains.items()}


def _nftables_chains(rules: RouterRules) -> dict[str, tuple[str, list[str]]]:
    """Name -> the line with the hook, and the rules. Each rule has a comment made from its text."""
    marked = f"meta mark & {_MASK:#x} == {rules.mark:#x}"
    matches = []
    for version in rules.versions:
        family, address = _FAMILIES[version]
        matches.append(f'iifname "{_GUEST_DEVICES}*" {family} daddr {address.partition("/")[0]} tcp dport 80')
    unmark = f"meta mark set meta mark & {0xFFFFFFFF ^ _MASK:#x}"
    out = [f'oifname "{device}" {marked} {unmark} accept' for device in rules.forward_to]
    mark = f"meta mark set meta mark & {0xFFFFFFFF ^ _MASK:#x} | {rules.mark:#x}"
    chains = {
        "guests-mark": ("filter hook prerouting priority mangle", [f"{match} {mark}" for match in matches]),
        "guests-forward": ("filter hook forward priority mangle", [*out, f"{marked} drop"]),
    }
    if rules.redirect_to:
        port = rules.redirect_to
        redirects = [f"{match} redirect to :{port}" for match in matches]
        guarded = [f"{marked} accept", f"tcp dport {port} drop"]
        chains["guests-redirect"] = ("nat hook prerouting priority dstnat", redirects)
        chains["guests-input"] = ("filter hook input priority filter", guarded)
    return {
        name: (f"type {hook}; policy accept;", [f'{rule} comment "{_digest(hook, rule)}"' for rule in body])
        for name, (hook, body) in chains.items()
    }


def _digest(*words: str) -> str:
    return f"{TABLE} {hashlib.sha256(' '.join(words).encode()).hexdigest()[:12]}"


def _nftables_found() -> dict[str, list[str]]:
    """Chain -> the comment of each rule in the table of mdmw; empty for a rule without a comment."""
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


def iptables(rules: RouterRules, version: int) -> dict[str, list[str]]:
    """`table/HOOK` -> the rules of the chain `mdmw-HOOK`, to which the hook jumps.

    The rules are spelt as `iptables-save` shows them, without `-A CHAIN`. A chain without rules does not
    exist.
    """
    _, address = _FAMILIES[version]
    marked = f"-m mark --mark {rules.mark:#x}/{_MASK:#x}"
    to_metadata = f"-d {address} -i {_GUEST_DEVICES}+ -p tcp -m tcp --dport 80"
    chains = {
        "mangle/PREROUTING": [f"{to_metadata} -j MARK --set-xmark {rules.mark:#x}/{_MASK:#x}"],
        "mangle/FORWARD": [
            f"-o {device} {marked} -j MARK --set-xmark 0x0/{_MASK:#x}" for device in rules.forward_to
        ],
        "filter/FORWARD": [f"{marked} -j DROP"],
        "filter/INPUT": [],
        "nat/PREROUTING": [],
    }
    if rules.redirect_to:
        port = rules.redirect_to
        chains["nat/PREROUTING"] = [f"{to_metadata} -j REDIRECT --to-ports {port}"]
        chains["filter/INPUT"] = [f"{marked} -j ACCEPT", f"-p tcp -m tcp --dport {port} -j DROP"]
    return chains


def _versions() -> tuple[int, ...]:
    """The IP versions that the kernel has: without IPv6 there is no ip6tables."""
    return (4, 6) if sysctl("ipv6/conf/all/disable_ipv6") is not None else (4,)


def _iptables_desired(rules: RouterRules, version: int) -> dict[str, tuple[list[str], int]]:
    if version not in rules.versions:
        return {}
    return {key: (body, 1) for key, body in iptables(rules, version).items() if body}


def _iptables_found(version: int) -> dict[str, tuple[list[str], int]]:
    """`table/HOOK` -> the rules of the chain of mdmw, and how many jumps lead to the chain."""
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


def _restore(version: int, desired: Chains) -> None:
    """Set the chains of mdmw with one call for all tables. Chains of others stay as they are."""
    found = _iptables_found(version)
    lines = []
    for table in _IPTABLES_TABLES:
        keys = [key for key in sorted({*found, *desired}) if key.startswith(f"{table}/")]
        if keys:
            lines += [f"*{table}", *_table_lines(keys, found, desired), "COMMIT"]
    if lines:
        stdin = "\n".join([*lines, ""])
        run(f"{_IPTABLES[version]}-restore", "--noflush", "--wait", "10", stdin=stdin)


def _table_lines(keys: list[str], found: Chains, desired: Chains) -> Iterable[str]:
    for key in keys:
        yield f":{_chain(key)} - [0:0]"
    for key in keys:
        hook = key.partition("/")[2]
        body, jumps = desired.get(key, ([], 0))
        there = found.get(key, ([], 0))[1]
        yield from (f"-D {hook} -j {_chain(key)}" for _ in range(there - jumps))
        yield from (f"-A {_chain(key)} {rule}" for rule in body)
        if jumps > there:
            yield f"-I {hook} 1 -j {_chain(key)}"  # before rules of others, which may accept the packet
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
