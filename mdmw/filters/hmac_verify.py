"""hmac-verify: is it proven? The other half of hmac-sign, for services called as Nova is.

Reads: `X-Instance-ID`, its signature and `X-Tenant-ID`; in provider mode
`X-Metadata-Provider`, its signature and `X-Forwarded-For` (spec 3.2, 3.3).
Writes: `mdmw.instance`, or `mdmw.source` in provider mode; removes the headers.
Answers: 400 for a missing header, 403 for a wrong signature, in Nova's order.
Place: first, where only signing peers can connect. "/" passes unverified, as in Nova.
"""

import posixpath
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import unquote

from oslo_config import cfg

from mdmw import wire
from mdmw.boundary.stage import App, Filter
from mdmw.errors import BadRequest, Refused
from mdmw.observe.journal import trust_hop
from mdmw.options import load, refuse
from mdmw.records import INSTANCE, SOURCE, Environ, Instance, Scope, Source, is_uuid, normalise_address
from mdmw.signing import Signer, nova_secret_options, nova_signer

OPTIONS = [
    *nova_secret_options(),
    cfg.DictOpt(
        "providers",
        default={},
        help="Provider mode: PROVIDER:NETWORK_UUID pairs, the network that each provider speaks for. "
        "Put instance-resolve behind this filter then.",
    ),
    cfg.IntOpt("max_target", default=8192, min=256, help="Longest request target, in bytes."),
    cfg.IntOpt("max_headers", default=32768, min=1024, help="Most header bytes in a request."),
]


class HmacVerify(Filter):
    """Writes the record that the signature proves; accepts any of the secrets."""

    stage = "verify"
    provides = frozenset({INSTANCE})

    def __init__(
        self, app: App, signer: Signer, providers: Mapping[str, str], max_target: int, max_headers: int
    ) -> None:
        super().__init__(app)
        self._signer = signer
        self.measurements = signer.measurements
        self._providers = providers
        self._max_target = max_target
        self._max_headers = max_headers

    def prepare(self, environ: Environ) -> None:
        environ.pop(INSTANCE, None)
        environ.pop(SOURCE, None)
        try:
            wire.check_request(environ, self._max_target, self._max_headers)
            if not _is_root(wire.request_target(environ)):
                self._verify(environ)
                trust_hop(environ)
        finally:
            wire.strip(environ)

    def _verify(self, environ: Environ) -> None:
        provider_id = wire.read_header(environ, wire.PROVIDER_ID)
        if provider_id is not None:
            environ[SOURCE] = self._provided_source(environ, provider_id)
            return
        instance_id = _needed(environ, wire.INSTANCE_ID)
        signature = _needed(environ, wire.INSTANCE_SIGNATURE)
        project_id = _needed(environ, wire.PROJECT_ID)
        self._check(instance_id, signature)
        environ[INSTANCE] = Instance(instance_id, project_id, port_id="")
        _take_over_address(environ)

    def _provided_source(self, environ: Environ, provider_id: str) -> Source:
        address = _first_address(wire.forwarded_for(environ))
        if not address:
            raise BadRequest(f"{wire.FORWARDED_FOR} is missing")
        self._check(provider_id, wire.read_header(environ, wire.PROVIDER_SIGNATURE) or "")
        network_id = self._providers.get(provider_id)
        if network_id is None:
            raise BadRequest(f"no network for provider {provider_id!r}")
        return Source(normalise_address(address), Scope("network", network_id))

    def _check(self, message: str, signature: str) -> None:
        if not self._signer.verifies(message.encode(), signature):
            raise Refused(f"the signature of {message!r} does not fit")


class ProviderVerify(HmacVerify):
    """With providers it may leave a source instead, for instance-resolve behind it."""

    provides = frozenset({INSTANCE, SOURCE})


def _needed(environ: Environ, name: str) -> str:
    value = wire.read_header(environ, name)
    if not value:
        raise BadRequest(f"{name} is missing")
    return value


def _take_over_address(environ: Environ) -> None:
    """The proven peer says where the guest is; the stages behind read that as the address of the peer."""
    address = _first_address(wire.forwarded_for(environ))
    if address:
        environ["REMOTE_ADDR"] = normalise_address(address)


def _first_address(forwarded_for: str | None) -> str:
    """The first address of X-Forwarded-For, as Nova reads the header; "" without one."""
    return (forwarded_for or "").partition(",")[0].strip()


def _is_root(target: str) -> bool:
    path = unquote(target.partition("?")[0], encoding="latin-1")
    return posixpath.normpath("/" + path.lstrip("/")) == "/"


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], HmacVerify]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("hmac-verify", OPTIONS, global_conf, local_conf)
    signer = nova_signer(settings)
    for provider_id, network_id in settings.providers.items():
        if not is_uuid(network_id):
            raise refuse(settings, "providers", f"{provider_id}: {network_id!r} is not a UUID")
    return partial(
        ProviderVerify if settings.providers else HmacVerify,
        signer=signer,
        providers=settings.providers,
        max_target=settings.max_target,
        max_headers=settings.max_headers,
    )
