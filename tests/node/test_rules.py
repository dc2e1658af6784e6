"""The rules of a router's namespace, as text (P-7, P-16); the kernel's say is in test_apply."""

import os
import secrets
import shutil
import subprocess

import pytest

from mdmw.node.firewall import iptables, nftables
from mdmw.node.namespaces import run
from mdmw.node.plan import RouterRules


def test_p_7_the_exact_rules():
    """P-7: mark, drop what leaves, redirect, accept, drop the port itself."""
    assert iptables(RouterRules(), 4) == {
        "mangle/PREROUTING": [
            "-d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffff"
        ],
        "mangle/FORWARD": [],
        "filter/FORWARD": ["-m mark --mark 0x1/0xffff -j DROP"],
        "nat/PREROUTING": [
            "-d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697"
        ],
        "filter/INPUT": ["-m mark --mark 0x1/0xffff -j ACCEPT", "-p tcp -m tcp --dport 9697 -j DROP"],
    }
    assert "-d fe80::a9fe:a9fe/128" in iptables(RouterRules(), 6)["mangle/PREROUTING"][0]


def test_p_7_with_the_proxy_off():
    """P-7: marked and dropped all the same, but not redirected."""
    off = iptables(RouterRules(redirect_to=None), 4)
    assert off["mangle/PREROUTING"]
    assert off["filter/FORWARD"]
    assert (off["nat/PREROUTING"], off["filter/INPUT"]) == ([], [])
    assert "redirect" not in nftables(RouterRules(redirect_to=None))


def test_p_16_towards_the_metadata_network():
    """P-16: without a mark that anybody drops towards that device, dropped elsewhere."""
    rules = iptables(RouterRules(redirect_to=None, forward_to=("qr-1",)), 4)
    assert rules["mangle/FORWARD"] == ["-o qr-1 -m mark --mark 0x1/0xffff -j MARK --set-xmark 0x0/0xffff"]
    assert rules["filter/FORWARD"] == ["-m mark --mark 0x1/0xffff -j DROP"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft")
@pytest.mark.parametrize(
    "rules", [RouterRules(), RouterRules(0x7, None, ("qr-1", "qr-2")), RouterRules(ipv6=False)]
)
def test_p_7_nftables_takes_the_text(rules):
    """P-7: a transaction that the kernel takes, twice, and that replaces what was there."""
    namespace = f"mdmw-{secrets.token_hex(3)}"
    run("ip", "netns", "add", namespace)
    try:
        listed = []
        for _ in range(2):
            run("ip", "netns", "exec", namespace, "nft", "-f", "-", stdin=nftables(rules))
            command = ["ip", "netns", "exec", namespace, "nft", "list", "ruleset"]
            listed.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert listed[0] == listed[1]
        assert listed[0].count(" drop") == 1 + bool(rules.redirect_to)
        assert listed[0].count("redirect to") == (len(rules.versions) if rules.redirect_to else 0)
    finally:
        run("ip", "netns", "delete", namespace)
