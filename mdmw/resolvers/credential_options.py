"""The options by which older configurations name the credentials for Neutron; `credentials` reads them."""

from oslo_config import cfg

_OLD = "Name of 2013, for a configuration without a [neutron] group: "
_INTERFACES = ["publicURL", "internalURL", "adminURL", "public", "internal", "admin"]

OPTIONS = [
    cfg.StrOpt("auth_url", help=_OLD + "Keystone's address; a final /v2.0 is ignored."),
    cfg.StrOpt("auth_region", help=_OLD + "the region of Neutron's endpoint."),
    cfg.StrOpt("admin_tenant_name", help=_OLD + "the project of the service user."),
    cfg.StrOpt("admin_user", help=_OLD + "the service user."),
    cfg.StrOpt("admin_password", secret=True, help=_OLD + "the password of the service user."),
    cfg.BoolOpt("auth_insecure", default=False, help=_OLD + "do not verify certificates."),
    cfg.StrOpt("auth_ca_cert", help=_OLD + "CA bundle that verifies the certificates."),
    cfg.StrOpt(
        "endpoint_type",
        default="adminURL",
        choices=_INTERFACES,
        help=_OLD + "which of Neutron's endpoints in the catalogue.",
    ),
    cfg.StrOpt("endpoint_url", help=_OLD + "Neutron's address, instead of that in the catalogue."),
    cfg.StrOpt(
        "auth_strategy",
        default="keystone",
        choices=["keystone", "noauth"],
        help=_OLD + "noauth needs no Keystone, only endpoint_url.",
    ),
]
