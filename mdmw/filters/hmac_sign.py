"""hmac-sign: prove it.

Reads: `mdmw.source`, and `mdmw.instance` unless `identify_mode = provider`.
Writes: `mdmw.proofs`, one set of headers for each shared secret (S-1, S-3).
Answers: nothing of its own.
Place: after instance-resolve, before nova-forward.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from oslo_config import cfg

from mdmw import wire
from mdmw.boundary.stage import App, Filter
from mdmw.errors import PipelineError
from mdmw.options import load, refuse
from mdmw.records import INSTANCE, PROOFS, SOURCE, Environ, Instance, Proof
from mdmw.signing import Signer, nova_secret_options, nova_signer

OPTIONS = [
    *nova_secret_options(),
    cfg.StrOpt(
        "identify_mode",
        default="instance",
        choices=[
            ("instance", "say which instance asks"),
            ("provider", "say which provider and source address ask; Nova finds the instance"),
        ],
        help="What to tell Nova.",
    ),
    cfg.StrOpt("metadata_provider_id", help="identify_mode provider: the id of this provider."),
]
_REMEMBERED = 16384


class HmacSign(Filter):
    """Signs the instance id; what proves an instance at an address is made once and remembered."""

    stage = "sign"
    requires = frozenset({SOURCE, INSTANCE})
    provides = frozenset({PROOFS})

    def __init__(self, app: App, signer: Signer) -> None:
        super().__init__(app)
        self._signer = signer
        self.measurements = signer.measurements
        self._proofs = lru_cache(_REMEMBERED)(self._prove)

    def prepare(self, environ: Environ) -> None:
        if INSTANCE not in environ or SOURCE not in environ:
            raise PipelineError("hmac-sign needs instance-resolve before it")
        environ[PROOFS] = self._proofs(environ[INSTANCE], environ[SOURCE].address)

    def _prove(self, instance: Instance, address: str) -> tuple[Proof, ...]:
        return tuple(
            (*wire.instance_headers(instance, signature), (wire.FORWARDED_FOR, address))
            for signature in self._signer.sign_all(instance.id.encode())
        )


class ProviderSign(Filter):
    """Signs the id of this provider; Nova finds the instance by the source address (spec 3.3)."""

    stage = "sign"
    requires = frozenset({SOURCE})
    provides = frozenset({PROOFS})

    def __init__(self, app: App, signer: Signer, provider_id: str) -> None:
        super().__init__(app)
        self.measurements = signer.measurements
        self._proofs: tuple[Proof, ...] = tuple(
            tuple(wire.provider_headers(provider_id, signature))
            for signature in signer.sign_all(provider_id.encode())
        )

    def prepare(self, environ: Environ) -> None:
        if SOURCE not in environ:
            raise PipelineError("hmac-sign needs source-identify before it")
        forwarded_for = (wire.FORWARDED_FOR, environ[SOURCE].address)
        environ[PROOFS] = tuple((*proof, forwarded_for) for proof in self._proofs)


def filter_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], Filter]:
    """Paste entry point; raises `ConfigError`."""
    settings = load("hmac-sign", OPTIONS, global_conf, local_conf)
    signer = nova_signer(settings)
    provider_id = settings.metadata_provider_id
    if settings.identify_mode == "instance":
        if provider_id:
            raise refuse(settings, "metadata_provider_id", "does not go with identify_mode = instance")
        return partial(HmacSign, signer=signer)
    if not provider_id:
        raise refuse(settings, "metadata_provider_id", "identify_mode = provider needs it")
    return partial(ProviderSign, signer=signer, provider_id=provider_id)
