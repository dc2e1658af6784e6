"""The section of the paste file: what it may say."""

import pytest
from responder_client import SAMPLE, Client

from mdmw.errors import ConfigError
from mdmw.responder.app import Responder, app_factory

LEAF = "/latest/meta-data/hostname"


def make(**options):
    return Client(app_factory({}, inventory_file=str(SAMPLE), **options))


def test_defaults(caplog):
    get = make()
    assert get(LEAF).text == "blue-1.novalocal"
    assert get("/openstack/latest/network_data.json").type == "application/json"
    assert get("/latest/api/token", "PUT").status == 404
    assert "no password_db" in caplog.text


def test_options(tmp_path, caplog):
    (tmp_path / "secret").write_text("s3cret\n")
    get = make(
        dhcp_domain="example.org",
        network_data_type="text/plain",
        password_db=str(tmp_path / "passwords.sqlite"),
        imdsv2="required",
        imdsv2_secret_file=str(tmp_path / "secret"),
    )
    assert caplog.text == ""
    ttl = {"HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS": "60"}
    token = {"HTTP_X_AWS_EC2_METADATA_TOKEN": get("/latest/api/token", "PUT", **ttl).text}
    assert get(LEAF).status == 401
    assert get(LEAF, **token).text == "blue-1.example.org"
    assert get("/openstack/latest/network_data.json", **token).type == "text/plain; charset=UTF-8"
    assert get("/openstack/latest/password", "POST", b"x", **token).status == 200
    assert (tmp_path / "passwords.sqlite").exists()


def test_no_domain():
    assert make(dhcp_domain="")(LEAF).text == "blue-1"
    assert make(dhcp_domain=".example.org")(LEAF).text == "blue-1.example.org"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inventory_file": "none.yaml"}, "none.yaml: there is no such file"),
        ({"inventory_fiel": "x"}, "unknown option 'inventory_fiel'"),
        ({"imdsv2": "maybe"}, "imdsv2"),
        ({"imdsv2": "optional"}, "optional needs imdsv2_secret_file"),
        ({"imdsv2": "required", "imdsv2_secret_file": "none"}, "No such file"),
        ({"network_data_type": "text/html"}, "network_data_type"),
        ({"password_db": str(SAMPLE.parent)}, "is a folder; a file is allowed"),
    ],
)
def test_mistakes(options, said):
    """One line, at load."""
    with pytest.raises(ConfigError) as error:
        app_factory({}, **{"inventory_file": str(SAMPLE)} | options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_inventory():
    with pytest.raises(ConfigError, match="inventory_file"):
        app_factory({})


def test_says_what_it_needs():
    assert Responder.requires == {"mdmw.instance"}
