"""The configuration files of the services, as text. All of them meet on the node's own loopback."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet

from .state import State

KEYSTONE_PORT = 5000
NEUTRON_PORT = 9696
NOVA_PORT = 8775
RABBIT_PORT = 5672
RABBIT_USER = "cloud"
AUTH_URL = f"http://127.0.0.1:{KEYSTONE_PORT}/v3"
REGION = "RegionOne"


def _secret() -> str:
    return field(default_factory=lambda: secrets.token_hex(12), repr=False)


@dataclass(frozen=True)
class Secrets:
    """Made once for each filled database."""

    admin: str = _secret()
    neutron: str = _secret()
    nova: str = _secret()
    rabbit: str = _secret()
    shared: str = _secret()

    @classmethod
    def read(cls, path: Path) -> "Secrets":
        """As `write` left them."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """To a file that only its owner reads."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)))


_CREDENTIALS = """
auth_type = password
auth_url = {auth_url}
username = {user}
password = {password}
project_name = service
user_domain_name = Default
project_domain_name = Default
region_name = {region}
"""
_KEYSTONE = """
[DEFAULT]
log_file = {log}
[database]
connection = {database}
[fernet_tokens]
key_repository = {keys}
[fernet_receipts]
key_repository = {keys}
"""
# One file for the API, the RPC server and the agents, as on a real node.
_NEUTRON = """
[DEFAULT]
transport_url = {transport}
state_path = {run}/neutron
core_plugin = ml2
service_plugins = router
api_paste_config = {virtualenv}/etc/neutron/api-paste.ini
rpc_workers = 1
rpc_state_report_workers = 0
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
[database]
connection = {database}
[keystone_authtoken]
www_authenticate_uri = {auth_url}
{credentials}
[oslo_concurrency]
lock_path = {run}/neutron/lock
[oslo_messaging_notifications]
driver = noop
[quotas]
quota_port = -1
"""
# openvswitch without its agents: networks, ports and routers are made, ports just stay unbound.
_ML2 = """
[ml2]
type_drivers = vxlan
tenant_network_types = vxlan
mechanism_drivers = openvswitch
extension_drivers = port_security
[ml2_type_vxlan]
vni_ranges = 1:1000
"""
_NOVA = """
[DEFAULT]
transport_url = {transport}
log_file = {log}
state_path = {run}/nova
my_ip = 127.0.0.1
host = node
[api]
metadata_cache_expiration = 1
[api_database]
connection = {api_database}
[database]
connection = {database}
[neutron]
service_metadata_proxy = True
metadata_proxy_shared_secret = {shared}
{credentials}
[oslo_concurrency]
lock_path = {run}/nova/lock
[oslo_messaging_notifications]
driver = noop
"""
_RABBIT = """
listeners.tcp.local = 127.0.0.1:{port}
load_definitions = {definitions}
"""
# Not by the command line: the applications hand sys.argv to oslo.config, which refuses gunicorn's words.
_GUNICORN = """
wsgi_app = "{application}"
bind = "127.0.0.1:{port}"
worker_class = "gthread"
threads = {threads}
timeout = 300
accesslog = "{access_log}"
control_socket_disable = True
"""


def write(state: State, secret: Secrets) -> None:
    """All files of all services, into their directories."""
    _keystone(state)
    _neutron(state, secret)
    _nova(state, secret)
    _rabbit(state, secret)


def write_gunicorn(state: State, name: str, application: str, port: int, threads: int = 8) -> None:
    """How gunicorn runs one service; it reads this file in the directory in which it starts."""
    text = _GUNICORN.format(
        application=application, port=port, threads=threads, access_log=state.log(f"{name}-access")
    )
    (state.etc(name) / "gunicorn.conf.py").write_text(text)


def credentials(user: str, password: str) -> str:
    """The lines of keystoneauth1 that nova.conf has in [neutron], for a user of the project `service`."""
    return _CREDENTIALS.format(auth_url=AUTH_URL, user=user, password=password, region=REGION)


def transport_url(secret: Secrets, vhost: str) -> str:
    """RabbitMQ's address, with the password."""
    return f"rabbit://{RABBIT_USER}:{secret.rabbit}@127.0.0.1:{RABBIT_PORT}/{vhost}"


def _keystone(state: State) -> None:
    keys = state.etc("keystone") / "keys"
    keys.mkdir(mode=0o700)
    for name in ("0", "1"):
        (keys / name).write_bytes(Fernet.generate_key())
    database = _database(state, "keystone")
    text = _KEYSTONE.format(log=state.log("keystone-api"), database=database, keys=keys)
    (state.etc("keystone") / "keystone.conf").write_text(text)


def _neutron(state: State, secret: Secrets) -> None:
    (state.run / "neutron/lock").mkdir(parents=True)
    text = _NEUTRON.format(
        transport=transport_url(secret, "neutron"),
        run=state.run,
        virtualenv=state.virtualenv("neutron"),
        database=_database(state, "neutron"),
        auth_url=AUTH_URL,
        credentials=credentials("neutron", secret.neutron),
    )
    (state.etc("neutron") / "neutron.conf").write_text(text)
    (state.etc("neutron") / "ml2_conf.ini").write_text(_ML2)


def _nova(state: State, secret: Secrets) -> None:
    (state.run / "nova/lock").mkdir(parents=True)
    text = _NOVA.format(
        transport=transport_url(secret, "nova"),
        log=state.log("nova-api"),
        run=state.run,
        api_database=_database(state, "nova_api"),
        database=_database(state, "nova"),
        shared=secret.shared,
        credentials=credentials("nova", secret.nova),
    )
    directory = state.etc("nova")
    (directory / "nova.conf").write_text(text)
    shipped = state.virtualenv("nova") / "etc/nova/api-paste.ini"
    (directory / "api-paste.ini").symlink_to(shipped)


def _rabbit(state: State, secret: Secrets) -> None:
    directory = state.etc("rabbit")
    definitions = directory / "definitions.json"
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    definitions.write_text(
        json.dumps(
            {
                "vhosts": [{"name": "neutron"}, {"name": "nova"}],
                "users": [{"name": RABBIT_USER, "password": secret.rabbit, "tags": ""}],
                "permissions": [
                    {"user": RABBIT_USER, "vhost": vhost, **everything} for vhost in ("neutron", "nova")
                ],
            }
        )
    )
    (directory / "rabbitmq.conf").write_text(_RABBIT.format(port=RABBIT_PORT, definitions=definitions))


def _database(state: State, name: str) -> str:
    return f"mysql+pymysql://root@localhost/{name}?charset=utf8&unix_socket={state.run}/mysql.sock"
