"""What the commands over the admin API share: where the API is, requests to the API, and warnings."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlencode

from mdmw.cli.common import add_json
from mdmw.errors import BackendError, BackendSlow, ConfigError, MdmwError, NotFound, Unavailable
from mdmw.upstream.address import parse_address
from mdmw.upstream.exchange import Limits, Upstream
from mdmw.upstream.transport import read_answer
from mdmw.wire import printable

SOCKET = "/run/mdmw/admin"
URL_VARIABLE = "MDMW_ADMIN_URL"
_KEYSTONE_VARIABLES = ("OS_CLOUD", "OS_AUTH_URL", URL_VARIABLE)
_LIMITS = Limits(read_timeout=35.0, total_timeout=40.0)  # a resolver may take 30 s
_PAGE_LENGTH = 1000
_TEMPORARY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)

#: Method, target and body of a request -> status and body of the answer.
Exchange = Callable[[str, str, bytes], tuple[int, bytes]]


class Command(Protocol):
    """What a command does with the API: it prints, and returns the exit status."""

    def __call__(self, api: "Api", arguments: argparse.Namespace) -> int: ...


# --- arguments --------------------------------------------------------------------------


def add_command(commands: Any, name: str, help: str, description: str, run: Command) -> Any:
    """The parser of a command that asks the API, with the options that say where the API is."""
    parser = commands.add_parser(name, help=help, description=description)
    where = parser.add_argument_group(
        "where the admin API is",
        f"Without these options, and without OS_CLOUD, OS_AUTH_URL and {URL_VARIABLE} in the environment, "
        f"the command uses the unix socket {SOCKET}. The user at Keystone comes from clouds.yaml, or from "
        "the usual OS_* variables.",
    )
    where.add_argument("--socket", metavar="PATH", help="unix socket of the pipeline admin-local")
    where.add_argument(
        "--os-cloud", metavar="NAME", help="name of the cloud in clouds.yaml; default: $OS_CLOUD"
    )
    where.add_argument(
        "--url",
        metavar="URL",
        help=f"address of the admin API, https://HOST:PORT; default: ${URL_VARIABLE}, or the service mdmw of "
        "Keystone's catalog",
    )
    add_json(parser)
    parser.set_defaults(run=partial(_run, run))
    return parser


def add_scope(parser: argparse.ArgumentParser, required: bool) -> Any:
    """`--network ID` or `--router ID`."""
    scope = parser.add_mutually_exclusive_group(required=required)
    scope.add_argument("--network", metavar="ID", help="id of the network that the guests are on")
    scope.add_argument("--router", metavar="ID", help="id of the router that the guests are behind")
    return scope


def scope_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The scope as the API takes it; empty without a scope."""
    return {kind: id_ for kind in ("network", "router") if (id_ := getattr(arguments, kind))}


# --- requests ---------------------------------------------------------------------------


def _run(run: Command, arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.socket and (arguments.os_cloud or arguments.url):
        parser.error(
            "--socket is for an API without Keystone; --os-cloud and --url are for one with Keystone"
        )
    logging.getLogger().addHandler(
        logging.NullHandler()
    )  # the errors of this command say what libraries warn of
    try:
        with _exchange(arguments) as exchange:
            return run(Api(exchange), arguments)
    except (NotFound, Unavailable) as error:
        print(f"mdmw: {error}", file=sys.stderr)
        return 1


def _exchange(arguments: argparse.Namespace) -> AbstractContextManager[Exchange]:
    with_keystone = arguments.os_cloud or arguments.url or any(map(os.environ.get, _KEYSTONE_VARIABLES))
    if arguments.socket or not with_keystone:
        return _over_socket(arguments.socket or SOCKET)
    try:
        from mdmw.cli.admin_keystone import over_keystone
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; install mdmw[cli], or use --socket") from None
    url = arguments.url or os.environ.get(URL_VARIABLE)
    return over_keystone(arguments.os_cloud, url, _LIMITS.total_timeout)


@contextmanager
def _over_socket(path: str) -> Iterator[Exchange]:
    try:
        address = parse_address(f"unix:{os.path.abspath(path)}", "http", 80)  # noqa: PTH100 - pathlib keeps `..`
    except ValueError as error:
        raise ConfigError(f"--socket: {error}") from None
    upstream = Upstream([address], _LIMITS)

    def exchange(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        headers = [("Accept", "application/json")]
        headers += [("Content-Type", "application/json")] if body else []
        try:
            answer = upstream.exchange(method, target, headers, body)
            return answer.status, read_answer(answer)
        except (BackendError, BackendSlow) as error:
            raise Unavailable(str(error)) from None

    with closing(upstream):
        yield exchange


class Api:
    """Requests to the admin API. An error of the API becomes `NotFound`, `Unavailable` or `ConfigError`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def get(self, path: str, **query: Any) -> Any:
        """The answer to GET; parameters that are None are left out of the query."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path, b"")

    def post(self, path: str, document: Any) -> Any:
        """The answer to POST."""
        return self._ask("POST", path, json.dumps(document).encode())

    def pages(self, kinds: str) -> Iterator[dict[str, Any]]:
        """The pages of a list, `networks` or `routers`."""
        marker = None
        while True:
            page = self.get(f"/v1/{kinds}", limit=_PAGE_LENGTH, marker=marker)
            yield page
            if not page["next"]:
                return
            marker = page[kinds][-1]["id"]

    def _ask(self, method: str, target: str, body: bytes) -> Any:
        status, answer = self._exchange(method, target, body)
        try:
            document = json.loads(answer, object_hook=_Object)
        except ValueError:
            document = None
        if not isinstance(document, _Object):
            raise Unavailable(f"that is not the admin API of mdmw: it answers {status} without its JSON")
        if status == HTTPStatus.OK:
            return document
        error = document["error"]
        if not isinstance(error, _Object):
            raise Unavailable(f"that is not the admin API of mdmw: it answers {status} with {error!r}")
        raise _error(status, printable(f"{error['message']} ({error['request_id']})"))


class _Object(dict[str, Any]):
    """An object of an answer. If a field is missing, the answer is not one of mdmw's admin API."""

    def __missing__(self, name: str) -> Any:
        raise Unavailable(f"that is not the admin API of mdmw: its answer has no {name!r}")


def _error(status: int, message: str) -> MdmwError:
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(message)
    if status in _TEMPORARY:
        return Unavailable(message)
    return ConfigError(f"the admin API answers {status}: {message}")


def warn_of_silent(silent: list[Mapping[str, Any]]) -> None:
    """Name on stderr the processes that did not answer, so that the output is without their part."""
    for one in silent:
        line = f"without process {one['pid']} of pipeline {one['pipeline']}: {one['problem']}"
        print(f"mdmw: {printable(line)}", file=sys.stderr)
