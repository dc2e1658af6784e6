"""Golden bodies of both trees (spec 7.2, 7.3), and who may read them (spec 3.2)."""

from datetime import date

import pytest
from responder_client import GUESTS, SAMPLE, client

from mdmw.records import INSTANCE, Instance, Scope, Source

TEXT = "text/plain; charset=UTF-8"

EC2_VERSIONS = """\
1.0
2007-01-19
2007-03-01
2007-08-29
2007-10-10
2007-12-15
2008-02-01
2008-09-01
2009-04-04
latest"""

OPENSTACK_VERSIONS = """\
2012-08-10
2013-04-04
2013-10-17
2015-10-15
2016-06-30
2016-10-06
2017-02-22
2018-08-27
2020-10-14
2025-04-04
latest"""

META_DATA = """\
ami-id
ami-launch-index
ami-manifest-path
block-device-mapping/
hostname
instance-action
instance-id
instance-type
local-hostname
local-ipv4
placement/
public-hostname
public-ipv4
public-keys/
reservation-id
security-groups"""

LEAVES = {
    "ami-id": "ami-00000003",
    "ami-launch-index": "0",
    "ami-manifest-path": "FIXME",
    "block-device-mapping/ami": "vda",
    "block-device-mapping/ebs0": "/dev/vdb",
    "block-device-mapping/root": "/dev/vda",
    "hostname": "blue-1.novalocal",
    "instance-action": "none",
    "instance-id": "i-0000002a",
    "instance-type": "m1.small",
    "local-hostname": "blue-1.novalocal",
    "local-ipv4": "10.0.0.5",
    "placement/availability-zone": "nova",
    "public-hostname": "blue-1.novalocal",
    "public-ipv4": "203.0.113.5",
    "public-keys/0/openssh-key": GUESTS["Blue One"].keys[0].data,
    "public-keys/1/openssh-key": GUESTS["Blue One"].keys[1].data,
    "reservation-id": "r-ax5lb7y2",
    "security-groups": "default\nweb",
}

DIRECTORIES = {
    "/": EC2_VERSIONS,
    "/ec2": EC2_VERSIONS,
    "/latest": "meta-data/\nuser-data",
    "/latest/meta-data/": META_DATA,
    "/latest/meta-data/public-keys/": "0=ada\n1=ben",
    "/latest/meta-data/public-keys/0/": "openssh-key",
    "/latest/meta-data/placement/": "availability-zone",
    "/latest/meta-data/block-device-mapping/": "ami\nebs0\nroot",
    "/openstack": OPENSTACK_VERSIONS,
    "/openstack/latest": "meta_data.json\nuser_data\npassword\nvendor_data.json\nnetwork_data.json\n"
    "vendor_data2.json",
    "/openstack/2012-08-10": "meta_data.json\nuser_data",
    "/openstack/2013-04-04": "meta_data.json\nuser_data\npassword",
    "/openstack/2013-10-17": "meta_data.json\nuser_data\npassword\nvendor_data.json",
    "/openstack/2015-10-15": "meta_data.json\nuser_data\npassword\nvendor_data.json\nnetwork_data.json",
    "/openstack/2016-06-30": "meta_data.json\nuser_data\npassword\nvendor_data.json\nnetwork_data.json",
}

# The keys that each EC2 version brought (spec 7.3).
NEW = {
    "1.0": "ami-id ami-launch-index ami-manifest-path hostname instance-id local-ipv4 public-keys/ "
    "reservation-id security-groups",
    "2007-01-19": "local-hostname public-hostname public-ipv4",
    "2007-03-01": "",
    "2007-08-29": "instance-type",
    "2007-10-10": "",
    "2007-12-15": "block-device-mapping/",
    "2008-02-01": "placement/",
    "2008-09-01": "instance-action",
    "2009-04-04": "",
    "latest": "",
}


@pytest.mark.parametrize(("path", "body"), DIRECTORIES.items())
def test_e2_listings(get, path, body):
    """E-2, spec 7.2: one name to a line, no final newline."""
    answer = get(path)
    assert (answer.status, answer.text, answer.type) == (200, body, TEXT)


@pytest.mark.parametrize(("key", "value"), LEAVES.items())
def test_spec_7_3_leaves(get, key, value):
    """Spec 7.3: each key's value, absent ones empty."""
    answer = get(f"/2009-04-04/meta-data/{key}")
    assert (answer.status, answer.text, answer.type) == (200, value, TEXT)


def test_spec_7_3_keys_by_version(get):
    """Spec 7.3: a key appears with its version and stays."""
    expected = set()
    for version, new in NEW.items():
        expected |= set(new.split())
        assert get(f"/{version}/meta-data/").text.split("\n") == sorted(expected)
    assert get("/1.0/meta-data/instance-type").status == 404
    assert get("/2007-10-10/meta-data/block-device-mapping/root").status == 404


def test_spec_7_3_without_optional_things(get):
    """Spec 7.3: no keys, floating IP, flavour, zone; default devices; ids that stay."""
    listing = get("/latest/meta-data/", guest="red-1").text
    assert "public-keys" not in listing
    assert get("/latest", guest="red-1").text == "meta-data/"
    assert get("/latest/user-data", guest="red-1").status == 404
    for key in ("public-ipv4", "instance-type", "placement/availability-zone"):
        answer = get(f"/latest/meta-data/{key}", guest="red-1")
        assert (answer.status, answer.body) == (200, b"")
    root = "/latest/meta-data/block-device-mapping/"
    names = get(root, guest="red-1").text.split("\n")
    assert {name: get(root + name, guest="red-1").text for name in names} == {
        "ami": "sda1",
        "ephemeral0": "sda2",
        "root": "/dev/sda1",
        "swap": "sda3",
    }
    assert get("/latest/meta-data/instance-id", guest="red-1").text == "i-6be41d0f"
    assert get("/latest/meta-data/reservation-id", guest="red-1").text == "r-f5c7ba6e"


def test_spec_7_3_kernel_and_ramdisk(tmp_path):
    """Spec 7.3: since 2007-12-15, if set."""
    path = tmp_path / "inventory.yaml"
    path.write_text(SAMPLE.read_text().replace("name: red-1", "name: red-1\n    kernel_id: aki-00000001"))
    get = client(path)
    assert get("/latest/meta-data/kernel-id", guest="red-1").text == "aki-00000001"
    assert get("/2007-10-10/meta-data/kernel-id", guest="red-1").status == 404
    assert get("/latest/meta-data/ramdisk-id", guest="red-1").status == 404


def test_spec_7_3_local_ipv4_of_a_guest_without_one(tmp_path):
    """Spec 7.3: else the source address."""
    path = tmp_path / "inventory.yaml"
    path.write_text(SAMPLE.read_text().replace('["10.0.1.5", ', "["))
    get = client(path)
    leaf = "/latest/meta-data/local-ipv4"
    assert get(leaf, guest="red-1", peer="198.51.100.7").text == "198.51.100.7"
    source = Source("fd00:1::9", Scope("network", "n"))
    assert get(leaf, guest="red-1", source=source).text == "fd00:1::9"
    assert get(leaf, guest="Blue One", source=source).text == "10.0.0.5"


def test_spec_7_2_user_data(get):
    """Spec 7.2, W-13: as it was given; gzip is content, not an encoding."""
    for path, type_ in (("/latest/user-data", TEXT), ("/openstack/latest/user_data", "text/plain")):
        text, gzip = get(path), get(path, guest="green-1")
        assert (text.body, text.type) == (GUESTS["Blue One"].user_data, type_)
        assert (gzip.body, gzip.type) == (GUESTS["green-1"].user_data, type_)
        assert gzip.body.startswith(b"\x1f\x8b")
        assert "Content-Encoding" not in gzip.headers
        assert get(path, guest="red-1").status == 404
    assert "user_data" not in get("/openstack/latest", guest="red-1").text


def test_spec_7_2_contents(get):
    """Spec 7.2: the files of meta_data.json."""
    first, second = get("/openstack/content/0000"), get("/openstack/content/0001")
    assert (first.body, first.type) == (b"colour = blue\n", TEXT)
    assert second.body == bytes(range(48))
    assert get("/openstack/content/0000", guest="green-1").status == 404


@pytest.mark.parametrize(
    ("today", "newest"),
    [(date(2024, 12, 31), "2020-10-14"), (date(2025, 4, 4), "2025-04-04"), (date(1970, 1, 1), "2012-08-10")],
)
def test_spec_7_2_future_versions_are_hidden_and_served(today, newest):
    """Spec 7.2: `latest` is the newest listed; what is not listed yet is served."""
    get = client(today=today)
    listed = get("/openstack").text.split("\n")
    assert listed[-2:] == [newest, "latest"]
    assert get("/openstack/latest").body == get(f"/openstack/{newest}").body
    assert get("/openstack/2025-04-04/meta_data.json").status == 200


def test_spec_7_3_without_a_domain():
    """Spec 7.3: hostname = name and domain, if there is one."""
    assert client(dhcp_domain="")("/latest/meta-data/hostname").text == "blue-1"


def test_guests_see_themselves_only(get):
    """Spec 3.2: the record in the environ decides, and nothing that a guest can send."""
    assert get("/latest/meta-data/instance-id", guest="green-1").text == "i-d0386b9e"
    forged = get(
        "/latest/meta-data/instance-id?instance-id=x",
        guest="green-1",
        HTTP_X_INSTANCE_ID=GUESTS["Blue One"].id,
        HTTP_X_FORWARDED_FOR="10.0.0.5",
    )
    assert forged.text == "i-d0386b9e"


def test_spec_3_2_unknown_instance_and_project(get, caplog):
    """Spec 3.2: both are 404; the log names both projects (K44)."""
    guest = GUESTS["Blue One"]
    unknown = Instance("7c52af88-0000-4000-8000-be154d8c8638", guest.project_id, "")
    foreign = Instance(guest.id, "ffffffffffffffffffffffffffffffff", "")
    assert get("/latest", **{INSTANCE: unknown}).status == 404
    caplog.set_level("INFO")
    answer = get("/latest", **{INSTANCE: foreign})
    assert answer.status == 404
    assert guest.project_id in caplog.text
    assert foreign.project_id in caplog.text
    assert guest.id not in answer.text


def test_spec_3_2_root_needs_no_identity(get):
    """Spec 3.2: "/" is answered to anybody; the rest is the pipeline's fault."""
    assert get("/", guest=None).text == EC2_VERSIONS
    assert get("//./x/..", guest=None).text == EC2_VERSIONS
    for path in ("/ec2", "/latest", "/openstack"):
        assert get(path, guest=None).status == 500


def test_an_edit_is_seen_at_once(tmp_path):
    """Pages belong to one version of the inventory."""
    path = tmp_path / "inventory.yaml"
    path.write_text(SAMPLE.read_text())
    get = client(path)
    assert get("/latest/meta-data/instance-type").text == "m1.small"
    path.write_text(SAMPLE.read_text().replace("flavor: m1.small", "flavor: m1.large"))
    assert get("/latest/meta-data/instance-type").text == "m1.large"
    path.write_text("broken: [")
    assert get("/latest/meta-data/instance-type").text == "m1.large"
