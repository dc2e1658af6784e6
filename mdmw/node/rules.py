"""The firewall rules of a router's namespace (P-7, P-16), as text for nftables and for iptables."""

import hashlib
from dataclasses import dataclass

from mdmw.records import METADATA_ADDRESS, METADATA_ADDRESS_V6

TABLE = "mdmw"
_MASK = 0xFFFF
_GUESTS = "qr-"  # internal interfaces; a floating address never arrives here
_FAMILIES = {4: ("ip", f"{METADATA_ADDRESS}/32"), 6: ("ip6", f"{METADATA_ADDRESS_V6}/128")}


@dataclass(frozen=True, slots=True)
class RouterRules:
    """What happens to packets from guests to the metadata address.

    They are marked, always. `redirect_to` is the port of the local listener, or None when there
    is none. Marked packets never leave the router, except by the devices in `forward_to`, without the
    mark: of a router of Neutron's L3 agent they would be dropped by its own rules, which come later.
    """

    mark: int = 0x1
    redirect_to: int | None = 9697
    forward_to: tuple[str, ...] = ()
    ipv6: bool = True

    @property
    def versions(self) -> tuple[int, ...]:
        """4, or 4 and 6."""
        return (4, 6) if self.ipv6 else (4,)


def nftables(rules: RouterRules) -> str:
    """One transaction for `nft -f -`: a table of our own, as a whole, whatever was in it before."""
    lines = [f"table inet {TABLE} {{}}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for name, (head, body) in _nftables_chains(rules).items():
        lines += [f"\tchain {name} {{", f"\t\t{head}", *(f"\t\t{line}" for line in body), "\t}"]
    return "\n".join([*lines, "}", ""])


def nftables_comments(rules: RouterRules) -> dict[str, list[str]]:
    """Chain -> comment of each rule, as `nft list` shows them.

    `nft` spells a rule otherwise than it was written, so that rules are compared by their comments.
    """
    chains = _nftables_chains(rules)
    return {name: [line.rsplit('"', 2)[1] for line in body] for name, (_, body) in chains.items()}


def _nftables_chains(rules: RouterRules) -> dict[str, tuple[str, list[str]]]:
    """Name -> the line of its hook, and its rules. Each rule has a comment made from its text."""
    marked = f"meta mark & {_MASK:#x} == {rules.mark:#x}"
    matches = []
    for version in rules.versions:
        family, address = _FAMILIES[version]
        matches.append(f'iifname "{_GUESTS}*" {family} daddr {address.partition("/")[0]} tcp dport 80')
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


def iptables(rules: RouterRules, version: int) -> dict[str, list[str]]:
    """Rules of our chains, in the spelling of `iptables-save` and without `-A CHAIN`.

    Keys are `table/HOOK`; each hook jumps to a chain `mdmw-HOOK` that holds exactly these. There is
    no such chain where there are no rules.
    """
    _, address = _FAMILIES[version]
    marked = f"-m mark --mark {rules.mark:#x}/{_MASK:#x}"
    to_metadata = f"-d {address} -i {_GUESTS}+ -p tcp -m tcp --dport 80"
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
