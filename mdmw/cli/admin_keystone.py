"""Requests to the admin API with a token of Keystone; clouds.yaml or the OS_* variables name the user."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keystoneauth1 import exceptions
from keystoneauth1.adapter import Adapter
from openstack.config import get_cloud_region
from openstack.exceptions import ConfigException

from mdmw.errors import ConfigError, Unavailable
from mdmw.wire import one_line

if TYPE_CHECKING:
    from mdmw.cli.admin_api import Exchange

_SERVICE = "mdmw"  # type of the service in the catalog


@contextmanager
def over_keystone(cloud: str | None, url: str | None, timeout: float) -> "Iterator[Exchange]":
    """Requests to `url`, or to the endpoint in the catalog; `timeout` is in seconds. Raises `ConfigError`."""
    try:
        region = get_cloud_region(cloud=cloud or os.environ.get("OS_CLOUD"))
        session = region.get_session()
        if region.config["auth_type"] == "password" and not region.config["auth"].get("password"):
            raise ConfigError("Keystone needs a password: set OS_PASSWORD, or auth: password in clouds.yaml")
        adapter = Adapter(
            session,
            service_type=_SERVICE,
            interface=region.get_interface(_SERVICE),
            region_name=region.get_region_name(_SERVICE),
            endpoint_override=url or region.get_endpoint(_SERVICE),
        )
    except (ConfigException, exceptions.ClientException) as error:
        raise ConfigError(one_line(str(error))) from None

    def exchange(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            answer = adapter.request(
                target, method, data=body, headers=headers, raise_exc=False, redirect=False, timeout=timeout
            )
        except exceptions.ConnectFailure as error:
            raise Unavailable(one_line(str(error))) from None
        except exceptions.EndpointNotFound:
            raise ConfigError(
                f"the catalog of Keystone has no service {_SERVICE}; give --url, or --socket"
            ) from None
        except exceptions.ClientException as error:
            raise ConfigError(f"Keystone gives no token: {one_line(str(error))}") from None
        return answer.status_code, answer.content

    with session.session:  # closes the connection
        yield exchange
