"""The JSON documents (spec 7.5)."""

import base64

import pytest
from responder_client import GUESTS, SAMPLE, client

RED_NETWORK = "90b5d2f7-e16a-4c89-b34d-6f2a8e7c0d15"


def changed(tmp_path, old, new):
    text = SAMPLE.read_text()
    assert old in text
    path = tmp_path / "inventory.yaml"
    path.write_text(text.replace(old, new))
    return client(path)


def test_spec_7_5_meta_data(get):
    """Spec 7.5: every field of a guest that has all."""
    blue = GUESTS["Blue One"]
    answer = get("/openstack/latest/meta_data.json")
    found = answer.json
    assert answer.type == "application/json"
    assert len(base64.b64decode(found.pop("random_seed"))) == 512
    assert found == {
        "uuid": blue.id,
        "name": "Blue One",
        "hostname": "blue-1.novalocal",
        "launch_index": 0,
        "availability_zone": "nova",
        "project_id": blue.project_id,
        "meta": {"role": "web", "stage": "demo"},
        "site": "north",
        "files": [
            {"path": "/etc/example.conf", "content_path": "/content/0000"},
            {"path": "/var/lib/example.bin", "content_path": "/content/0001"},
        ],
        "public_keys": {key.name: key.data for key in blue.keys},
        "keys": [{"name": key.name, "type": "ssh", "data": key.data} for key in blue.keys],
        "devices": [
            {
                "type": "nic",
                "bus": "pci",
                "address": "0000:00:03.0",
                "mac": "fa:16:3e:5b:10:05",
                "vf_trusted": False,
                "tags": ["front"],
            },
            {
                "type": "disk",
                "bus": "virtio",
                "address": "0000:00:04.0",
                "serial": "disk-vol-8271",
                "path": "/dev/vdb",
                "tags": ["database"],
            },
        ],
        "dedicated_cpus": [2, 3],
    }
    assert not any("-" in key for key in found)


def test_spec_7_5_least_meta_data(get):
    """Spec 7.5: what is there always, in the oldest version."""
    red = GUESTS["red-1"]
    assert get("/openstack/2012-08-10/meta_data.json", guest="red-1").json == {
        "uuid": red.id,
        "name": "red-1",
        "hostname": "red-1.novalocal",
        "launch_index": 0,
        "availability_zone": None,
    }


def test_spec_7_5_fields_by_version(get):
    """Spec 7.5: what each version brought."""
    seen = set()
    new = {}
    for version in get("/openstack").text.split("\n")[:-1]:
        keys = set(get(f"/openstack/{version}/meta_data.json").json)
        assert seen <= keys
        new[version], seen = keys - seen, keys
    del new["2012-08-10"]
    assert {version: keys for version, keys in new.items() if keys} == {
        "2013-04-04": {"random_seed"},
        "2015-10-15": {"project_id"},
        "2016-06-30": {"devices"},
        "2020-10-14": {"dedicated_cpus"},
    }


def test_spec_7_5_devices_by_version(tmp_path):
    """Spec 7.5: vlan, vf_trusted and shares come later than devices."""
    share = "7b0d9a52-3e14-4c67-8f20-a1c5e9d34b86"
    get = changed(
        tmp_path,
        "        tags: [front]\n",
        f"        tags: [front]\n        vlan: 7\n        vf_trusted: true\n"
        f"      - type: share\n        share_id: {share}\n        tag: data\n",
    )

    def devices(version):
        return get(f"/openstack/{version}/meta_data.json").json["devices"]

    assert "vlan" not in devices("2016-10-06")[0]
    assert devices("2017-02-22")[0]["vlan"] == 7
    assert "vf_trusted" not in devices("2017-02-22")[0]
    assert devices("2018-08-27")[0]["vf_trusted"] is True
    assert [device["type"] for device in devices("2020-10-14")] == ["nic", "disk"]
    assert devices("2025-04-04")[1] == {
        "type": "share",
        "bus": "none",
        "address": "none",
        "share_id": share,
        "tag": "data",
        "tags": [],
    }


def test_spec_7_5_random_seed_is_fresh(get):
    """Spec 7.5: new for each request; the length never changes (W-16)."""
    path = "/openstack/latest/meta_data.json"
    first, second = get(path), get(path)
    assert first.json["random_seed"] != second.json["random_seed"]
    assert get(path, "HEAD").headers == first.headers


def test_spec_7_5_network_config_is_the_first_content(tmp_path):
    """Spec 7.5: as Nova numbers them."""
    get = changed(tmp_path, "    launch_index: 0 ", "    network_config: auto eth0\n    launch_index: 0 ")
    found = get("/openstack/latest/meta_data.json").json
    assert found["network_config"] == {"name": "network_config", "content_path": "/content/0000"}
    assert [file["content_path"] for file in found["files"]] == ["/content/0001", "/content/0002"]
    assert get("/openstack/content/0000").text == "auto eth0"


def test_spec_7_5_admin_pass(get):
    """Spec 7.5: if there is one."""
    assert get("/openstack/latest/meta_data.json", guest="green-1").json["admin_pass"] == "sample"


def test_spec_7_2_vendor_data(get):
    """Spec 7.2: static, then static beside targets; `{}` if none."""
    blue = GUESTS["Blue One"]
    one, two = get("/openstack/latest/vendor_data.json"), get("/openstack/latest/vendor_data2.json")
    assert one.type == two.type == "application/json"
    assert one.json == blue.vendor_data
    assert two.json == {"static": blue.vendor_data, "inventory-tool": {"rack": "B12", "tested": True}}
    assert get("/openstack/latest/vendor_data.json", guest="red-1").json == {}
    assert get("/openstack/latest/vendor_data2.json", guest="red-1").json == {"static": {}}


def test_spec_7_5_network_data_dhcp(get):
    """Spec 7.5: a DHCP network carries four keys; DHCP provides the MTU."""
    answer = get("/openstack/latest/network_data.json")
    assert answer.type == "application/json"
    assert answer.json == {
        "links": [
            {
                "id": "tapa3f04c61-8e",
                "type": "ovs",
                "ethernet_mac_address": "fa:16:3e:5b:10:05",
                "vif_id": "a3f04c61-8e2d-47b9-95d0-c6e71b8f2a43",
                "mtu": None,
            }
        ],
        "networks": [
            {
                "id": "network0",
                "type": "ipv4_dhcp",
                "link": "tapa3f04c61-8e",
                "network_id": "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31",
            }
        ],
        "services": [{"type": "dns", "address": "10.0.0.2"}],
    }


def test_spec_7_5_network_data_static(tmp_path):
    """Spec 7.5: static networks carry everything; one v4 and one v6."""
    get = changed(tmp_path, "ipv6_address_mode: slaac", "enable_dhcp: false")
    dns = [{"type": "dns", "address": "10.0.1.1"}]
    v4 = {
        "id": "network0",
        "type": "ipv4",
        "link": "interface0",
        "network_id": RED_NETWORK,
        "ip_address": "10.0.1.5",
        "netmask": "255.255.255.0",
        "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.1.1"}],
        "services": dns,
    }
    v6 = {
        "id": "network1",
        "type": "ipv6",
        "link": "interface0",
        "network_id": RED_NETWORK,
        "ip_address": "fd00:1::f816:3eff:fe7d:1105",
        "netmask": "ffff:ffff:ffff:ffff::",
        "routes": [{"network": "::", "netmask": "::", "gateway": "fd00:1::1"}],
        "services": [],
    }
    found = get("/openstack/latest/network_data.json", guest="red-1").json
    assert found["networks"] == [v4, v6]
    assert found["services"] == dns
    assert found["links"][0]["mtu"] == 1500
    assert found["links"][0]["type"] == "phy"


def test_spec_7_5_host_routes_after_the_default_route(tmp_path):
    """Spec 7.5: routes of a static network."""
    get = changed(
        tmp_path,
        "        enable_dhcp: false\n",
        "        enable_dhcp: false\n        host_routes: [{destination: 10.8.0.0/16, nexthop: 10.0.1.9}]\n",
    )
    found = get("/openstack/latest/network_data.json", guest="red-1").json
    assert found["networks"][0]["routes"] == [
        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.1.1"},
        {"network": "10.8.0.0", "netmask": "255.255.0.0", "gateway": "10.0.1.9"},
    ]


@pytest.mark.parametrize("mode", ["slaac", "dhcpv6-stateless", "dhcpv6-stateful"])
def test_spec_7_5_ipv6_modes(tmp_path, mode):
    """Spec 7.5: the type tells how the address comes."""
    get = changed(tmp_path, "ipv6_address_mode: slaac", f"ipv6_address_mode: {mode}")
    found = get("/openstack/latest/network_data.json", guest="red-1").json
    assert found["networks"][1]["type"] == f"ipv6_{mode}"


def test_spec_7_5_ipv6_dhcp_without_a_mode(tmp_path):
    """Spec 7.5: ipv6_dhcp carries four keys too."""
    get = changed(tmp_path, "        ipv6_address_mode: slaac ", "        # none ")
    found = get("/openstack/latest/network_data.json", guest="red-1").json
    assert set(found["networks"][1]) == {"id", "type", "link", "network_id"}
    assert found["networks"][1]["type"] == "ipv6_dhcp"


def test_spec_7_5_network_data_unknown(tmp_path):
    """Spec 7.5: `{}` without ports."""
    text = SAMPLE.read_text()
    path = tmp_path / "inventory.yaml"
    path.write_text(text[: text.rindex("    ports:")])
    answer = client(path)("/openstack/latest/network_data.json", guest="red-1")
    assert (answer.status, answer.body) == (200, b"{}")


@pytest.mark.parametrize("version", ["2012-08-10", "2013-04-04", "2013-10-17"])
def test_spec_7_2_network_data_where_it_is_not_listed(get, version):
    """Spec 7.2: served even for versions that do not list it, as Nova does."""
    assert "network_data.json" not in get(f"/openstack/{version}").text
    assert get(f"/openstack/{version}/network_data.json").json["links"]


def test_spec_7_2_network_data_type_as_nova():
    """Spec 7.2: switchable."""
    get = client(network_data_type="text/plain; charset=UTF-8")
    assert get("/openstack/latest/network_data.json").type == "text/plain; charset=UTF-8"
