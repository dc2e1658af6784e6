"""Each agent behind each proxy, by way of networks and routers: what guests are answered.

Where neutron-metadata-agent is in the path its defects are what is expected, exactly.
"""

import gzip
import json
import time
from functools import partial

import pytest
from cloud.agents import NEUTRON
from cloud.proxies import HAPROXY
from cloud.seed import Port, create_port
from cloud.topology import configure

META_DATA = "/openstack/latest/meta_data.json"
USER_DATA = "/openstack/latest/user_data"
PASSWORD = "/openstack/latest/password"
NOBODY = "10.0.0.99"
PRIVATE = "fe80::1234:5678:9abc:def0"
WITHIN = 10.0

versions = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


def identity(reply):
    """Who Nova thinks is asking."""
    assert reply.status == 200, reply.body
    document = json.loads(reply.body)
    return document["uuid"], document["project_id"]


def eventually(look, wanted):
    """Look until it is as wanted; Nova remembers for a second."""
    deadline = time.monotonic() + WITHIN
    while (seen := look()) != wanted:
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)  # between two looks


@versions
def test_r_1_r_2_guests_with_the_same_address_are_themselves(cloud, as_guest, version):
    """R-1, R-2, R-7, 2.3: overlapping subnets; over IPv6 by the MAC of the link-local address."""
    for name in ("a", "b", "c"):
        expected = cloud.seed.instances[name]
        assert identity(as_guest(name, META_DATA, version=version)) == (expected.id, expected.project_id)


@versions
def test_w_13_gzipped_user_data(cloud, agent, as_guest, version):
    """W-13, K6: what the user gave; neutron-metadata-agent unpacks it."""
    stored = cloud.seed.instances["c"].user_data
    reply = as_guest("c", USER_DATA, version=version)
    assert (reply.status, reply.body) == (200, gzip.decompress(stored) if agent == NEUTRON else stored)
    assert reply.headers["Content-Length"] == str(len(reply.body))
    assert reply.headers["Content-Encoding"] is None


@versions
def test_w_13_binary_user_data(cloud, agent, proxy, as_guest, version):
    """W-13, K6: every byte; neutron-metadata-agent hangs up, of which each proxy makes its own error."""
    stored = cloud.seed.instances["d"].user_data
    reply = as_guest("d", USER_DATA, version=version)
    if agent == NEUTRON:
        assert reply.status == (502 if proxy == HAPROXY else 503)
    else:
        assert (reply.status, reply.body) == (200, stored)


def test_7_4_password_is_written_once(cloud, agent, proxy, as_guest):
    """W-8, spec 7.4, K4: POST stores it, the next one gets 409."""
    cloud.services.sql("delete from instance_system_metadata where `key` like 'password_%'", "nova")
    eventually(lambda: as_guest("a", PASSWORD).body, b"")
    post = partial(as_guest, "a", PASSWORD, method="POST")
    secret = b"b64 cipher text"
    if (agent, proxy) == (NEUTRON, HAPROXY):
        # It does not wait for bodies: this one never comes, and of the others it loses some.
        assert post(headers=[("Content-Length", "15")]).status == 200
        eventually(lambda: post(body=secret).status, 409)
    else:
        assert post(body=secret).status == 200
        eventually(lambda: as_guest("a", PASSWORD).body, secret)
        assert post(body=b"another").status == 409
    assert as_guest("a", PASSWORD).body == secret


@versions
@pytest.mark.parametrize("path", ["/openstack/latest/none", "/none"])
def test_1_6_what_nova_does_not_have(as_guest, version, path):
    """1.6: Nova's 404 is the guest's."""
    assert as_guest("a", path, version=version).status == 404


def test_r_6_an_address_without_a_port(cloud, as_guest):
    """R-6, K10: 404, and quickly."""
    configure(cloud.topology.guest("a"), f"address replace {NOBODY}/24 dev eth0")
    assert as_guest("a", META_DATA, source=NOBODY).status == 404


def forged(cloud):
    """Headers of 1.2 by which a guest could say that it is another; and the other spelling of each."""
    victim = cloud.seed.instances["b"]
    network = cloud.seed.networks[victim.network]
    headers = {
        "X-Forwarded-For": cloud.seed.instances["c"].port.addresses[0],
        "X-Neutron-Network-ID": network.id,
        "X-Neutron-Router-ID": network.router_id,
        "X-Quantum-Network-ID": network.id,
        "X-Quantum-Router-ID": network.router_id,
        "X-OVN-Network-ID": network.id,
        "X-Instance-ID": victim.id,
        "X-Instance-ID-Signature": "0" * 64,
        "X-Tenant-ID": victim.project_id,
        "X-Metadata-Provider": network.router_id,
        "X-Metadata-Provider-Signature": "0" * 64,
        "X-Mdmw-Client-MAC": victim.port.mac,
        "Forwarded": f"for={victim.port.addresses[0]}",
        "X-Real-IP": "10.0.0.11",
        "X-Auth-Token": "token",
        "X-Identity-Status": "Confirmed",
        "X-Roles": "admin",
        "Connection": "X-Forwarded-For, X-Neutron-Network-ID, X-Neutron-Router-ID",
    }
    return [*headers.items(), *((name.replace("-", "_"), value) for name, value in headers.items())]


def refused(agent, proxy, way, version):
    """What Neutron's haproxy lets through, and how the agent then refuses: header -> status.

    haproxy deletes and sets one name, with hyphens; neutron-metadata-agent takes an underscore for one.
    """
    if proxy != HAPROXY:
        return {}
    if agent != NEUTRON:
        older = dict.fromkeys(("X-Quantum-Network-ID", "X-Quantum-Router-ID", "X-OVN-Network-ID"), 400)
        return older | {"X-Forwarded-For": 400}
    addresses = {"X-Forwarded-For": 502, "X_Forwarded_For": 502}
    if way == "network":
        return addresses | {"X_Neutron_Network_ID": 404, "X_Neutron_Router_ID": 400}
    # K17: no such router, so the whole cloud is searched; the MAC is found there, the address twice.
    by_router = {"X_Neutron_Router_ID": 404} if version == 4 else {}
    return addresses | {"X_Neutron_Network_ID": 400} | by_router


@versions
def test_w_1_w_5_forged_headers(cloud, agent, proxy, way, as_guest, version):
    """W-1 to W-5, K1 to K3: one by one, whatever a guest writes, it stays itself or is refused."""
    own = cloud.seed.instances["a"]
    expected = refused(agent, proxy, way, version)
    for header in forged(cloud):
        reply = as_guest("a", META_DATA, version=version, headers=[header])
        if header[0] in expected:
            assert reply.status == expected[header[0]], header
        else:
            assert identity(reply) == (own.id, own.project_id), header


@pytest.mark.parametrize("is_forged", [False, True], ids=["honest", "forged"])
def test_r_8_an_address_that_tells_no_mac(cloud, agent, proxy, as_guest, is_forged):
    """R-8, K21: known by the neighbour table of mdmw's proxy or not at all, whatever MAC the guest names."""
    own, other = cloud.seed.instances["a"], cloud.seed.instances["c"]
    # Deprecated, so that it is not chosen where the source is left open.
    configure(cloud.topology.guest("a"), f"address replace {PRIVATE}/64 dev eth0 preferred_lft 0")
    headers = [("X-Mdmw-Client-MAC", other.port.mac)] if is_forged else []
    reply = as_guest("a", META_DATA, version=6, source=PRIVATE, headers=headers)
    if proxy == HAPROXY or agent == NEUTRON:
        assert reply.status == 404
    else:
        assert identity(reply) == (own.id, own.project_id)


def test_r_11_an_address_changes_hands(cloud, as_guest):
    """R-11, K15: e is deleted and f gets its address; the first thing that f reads is f's."""
    old, new = cloud.seed.instances["e"], cloud.seed.instances["f"]
    network = cloud.seed.networks[old.network]
    address = old.port.addresses[0]
    assert identity(as_guest("e", META_DATA)) == (old.id, old.project_id)
    try:
        cloud.services.sql(f"update instances set deleted = id where uuid = '{old.id}'", "nova")
        eventually(lambda: as_guest("e", META_DATA).status, 404)
        for port in ports(cloud, old.id):
            cloud.api.neutron("DELETE", f"/ports/{port.id}")
        port = create_port(cloud.api, network, new.id, address)
        cloud.topology.set_mac("e", port.mac)
        assert identity(as_guest("e", META_DATA)) == (new.id, new.project_id)
        assert identity(as_guest("e", META_DATA, version=6)) == (new.id, new.project_id)
    finally:
        for port in ports(cloud, new.id) + ports(cloud, old.id):
            cloud.api.neutron("DELETE", f"/ports/{port.id}")
        cloud.topology.set_mac("e", create_port(cloud.api, network, old.id, address).mac)
        cloud.services.sql(f"update instances set deleted = 0 where uuid = '{old.id}'", "nova")


def ports(cloud, instance_id):
    """The ports of an instance, as Neutron has them now."""
    return [Port.of(port) for port in cloud.api.neutron("GET", f"/ports?device_id={instance_id}")["ports"]]
