"""The options of the app `admin`, for those who have not installed what it needs too."""

from oslo_config import cfg

OPTIONS = [
    cfg.StrOpt(
        "introspect_dir",
        default="/run/mdmw/processes",
        help="Directory with the sockets of the serving processes, as the filter introspect has it. They "
        "answer root and their own user only, so the API runs as one of these.",
    ),
    cfg.StrOpt(
        "node_status_file",
        default="/run/mdmw/node-status.json",
        help="What mdmw-node says of its listeners; where there is no such file, no listeners are shown.",
    ),
    cfg.StrOpt(
        "policy_file",
        help="YAML file of oslo.policy that overrides rules of the code; etc/policy.yaml has them all. "
        "Read again when it changes; a version with a mistake is logged, and the last good one stays in use.",
    ),
    cfg.StrOpt(
        "inventory_db",
        help="SQLite file with the inventory that can be changed here; made when it is not there.",
    ),
    cfg.FloatOpt(
        "audit_retention",
        default=0.0,
        min=0,
        help="Seconds for which the record of a change of the inventory is kept; 0: for ever.",
    ),
]
