"""What is behind the agent: Keystone, Neutron or an inventory, and Nova, by the options of a pipeline."""

import datetime
import email.utils
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from cryptography import x509

from mdmw import options
from mdmw.doctor.findings import Finding, Notes, together
from mdmw.doctor.places import Scene
from mdmw.errors import BackendSlow, ConfigError, MdmwError, NotIdentified, RequestError, Unavailable
from mdmw.filters import hmac_sign, instance_resolve, nova_forward
from mdmw.records import INSTANCE, PROOFS, SOURCE, Environ, Instance, Proof, Scope, Source, is_uuid
from mdmw.resolvers import keystone
from mdmw.resolvers.combined import AutoResolver
from mdmw.resolvers.contract import NETWORK_OWNER_PREFIX, Port, Resolver, choose, find
from mdmw.resolvers.keystone import Alone, Keystone, load_credentials
from mdmw.resolvers.neutron import NeutronResolver, RestQueries
from mdmw.upstream import transport
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Answer, Limits, Upstream
from mdmw.upstream.tls import client_context
from mdmw.wire import source_headers
from mdmw.wsgi.pipelines import Stage

#: For everything that is asked: seconds.
WITHIN = 1.0
LIMITS = Limits(
    connect_timeout=WITHIN,
    read_timeout=WITHIN,
    total_timeout=WITHIN,
    queue_timeout=WITHIN,
    idle_timeout=-1.0,  # no connection is kept
)
_MOST_PORTS = 10000


@dataclass(frozen=True, slots=True)
class Neutron:
    """Neutron by REST; `auth_url` is Keystone's address, None without Keystone."""

    keystone: Keystone
    queries: RestQueries
    auth_url: str | None


@dataclass(frozen=True, slots=True)
class Nova:
    """Where Nova is, how to speak TLS with it, and what signs."""

    addresses: tuple[Address, ...]
    tls: Any
    client_certificate: str
    sign: Stage | None

    def proofs(self, source: Source, instance: Instance) -> tuple[Proof, ...]:
        """As hmac-sign makes them; raises `ConfigError`."""
        if self.sign is None:
            return ()
        made = hmac_sign.filter_factory(self.sign.global_conf, **self.sign.local_conf)(_nobody)
        environ: Environ = {SOURCE: source, INSTANCE: instance}
        made.prepare(environ)
        proofs: tuple[Proof, ...] = environ[PROOFS]
        return proofs


def neutron_of(stages: Sequence[Stage]) -> Neutron | None:
    """None when a pipeline does not ask Neutron by REST; raises `ConfigError`."""
    stage = _stage(stages, "instance-resolve")
    if stage is None:
        return None
    kind, settings = instance_resolve.load_section(stage.global_conf, stage.local_conf)
    kinds = [kind, *map(find, getattr(settings, "chain", None) or ())]
    if not any(_asks_by_rest(one, settings) for one in kinds):
        return None
    found = load_credentials(settings)
    auth_url = getattr(found.plugin, "auth_url", None)
    keystone = Keystone(replace(found, timeout=None), LIMITS, Alone())
    return Neutron(keystone, RestQueries(keystone.get, _MOST_PORTS), auth_url)


def resolver_of(stages: Sequence[Stage]) -> Resolver | None:
    """Another resolver that can be asked at once, as an inventory; raises `ConfigError`."""
    stage = _stage(stages, "instance-resolve")
    if stage is None:
        return None
    kind, settings = instance_resolve.load_section(stage.global_conf, stage.local_conf)
    return kind(settings) if getattr(kind, "cheap", False) else None


def nova_of(stages: Sequence[Stage]) -> Nova | None:
    """None when a pipeline does not ask Nova; raises `ConfigError`."""
    stage = _stage(stages, "nova-forward")
    if stage is None:
        return None
    settings = options.load("nova-forward", nova_forward.OPTIONS, stage.global_conf, stage.local_conf)
    return Nova(
        tuple(nova_forward.addresses_of(settings)),
        nova_forward.tls_of(settings),
        settings.nova_client_cert,
        _stage(stages, "hmac-sign"),
    )


def _stage(stages: Iterable[Stage], entry_point: str) -> Stage | None:
    return next((stage for stage in stages if stage.entry_point == entry_point), None)


def _asks_by_rest(kind: type[Resolver], settings: SimpleNamespace) -> bool:
    if issubclass(kind, NeutronResolver):
        return True
    return issubclass(kind, AutoResolver) and keystone.has_credentials(settings)


def _nobody(_environ: Environ, _start_response: Any) -> NoReturn:
    """The application behind a filter that is only asked to prepare."""
    raise ConfigError("the doctor answers no guest")


@dataclass(frozen=True, slots=True)
class Known:
    """A guest: where, which instance it is, and its MAC if Neutron told."""

    source: Source
    instance: Instance
    mac: str | None = None


def ask_neutron(neutron: Neutron, questions: Sequence[tuple[Scope, str | None]]) -> Iterator[Finding | Known]:
    """A token, then for each scope the address, or, without one, all guests that there are."""
    with transport.within(WITHIN):
        try:
            neutron.keystone.access()
        except Unavailable as error:
            yield _keystone(neutron, error)
            return
    with transport.within(WITHIN):
        for scope, address in questions:
            try:
                yield from _of_scope(neutron, scope, address)
            except Unavailable as error:
                yield _neutron(error)
                return
        if not questions:
            try:
                neutron.queries.by_address(["00000000-0000-0000-0000-000000000000"], "192.0.2.1")
            except Unavailable as error:
                yield _neutron(error)


def ask_resolver(
    resolver: Resolver, questions: Sequence[tuple[Scope, str | None]]
) -> Iterator[Finding | Known]:
    """Of an inventory."""
    for scope, address in questions:
        if address is None:
            continue
        source = Source(address, scope)
        try:
            yield Known(source, resolver.resolve(source, fresh=True))
        except NotIdentified as error:
            yield _unknown(source, str(error), f"mdmw resolve --{scope.kind} {scope.id} --address {address}")
        except MdmwError as error:
            yield Finding("neutron", "resolver", str(error), "it was asked", ("mdmw check",))


def _of_scope(neutron: Neutron, scope: Scope, address: str | None) -> Iterator[Finding | Known]:
    networks: tuple[str, ...] = (scope.id,)
    subnets: frozenset[str] | None = None
    if scope.kind == "router":
        interfaces = neutron.queries.router_interfaces(scope.id)
        networks = tuple(dict.fromkeys(port.network_id for port in interfaces))
        subnets = frozenset(subnet for port in interfaces for _, subnet in port.fixed_ips)
        if not interfaces:
            how = f"openstack port list --router {scope.id}"
            mend = (f"openstack router add subnet {scope.id} SUBNET",)
            what = "Neutron knows no interface of this router"
            yield Finding("unknown-address", str(scope), what, how, mend)
            return
    if address:
        ports = neutron.queries.by_address(networks, address)
        yield _identified(ports, Source(address, scope), subnets)
        return
    everything = neutron.queries.everything(networks) or ()
    guests = [port for port in everything if _is_guest(port)]
    at: dict[str, list[Port]] = {}
    for port in guests:
        for fixed, subnet in port.fixed_ips:
            if subnets is None or subnet in subnets:
                at.setdefault(fixed, []).append(port)
    for fixed, ports in at.items():
        if len({(port.device_id, port.project_id) for port in ports}) > 1:
            yield _several(Source(fixed, scope), ports)
    of_nova = [(fixed, port) for fixed, ports in at.items() for port in ports if _is_of_nova(port)]
    for fixed, port in of_nova[:1]:
        yield Known(Source(fixed, scope), Instance(port.device_id, port.project_id, port.id), port.mac)


def _identified(ports: Sequence[Port], source: Source, subnets: frozenset[str] | None) -> Finding | Known:
    guests = [port for port in ports if _is_guest(port)]
    try:
        instance = choose(ports, source, subnets)
    except NotIdentified as error:
        if len(guests) > 1:
            return _several(source, guests)
        how = f"openstack port list --fixed-ip ip-address={source.address}"
        if ports:
            owners = ", ".join(f"port {port.id} of {port.device_owner or 'nobody'}" for port in ports)
            return _unknown(source, f"only {owners} has it", how)
        return _unknown(source, str(error), how)
    return Known(source, instance, next(port.mac for port in guests if port.id == instance.port_id))


def _is_guest(port: Port) -> bool:
    return bool(port.device_id) and not port.device_owner.startswith(NETWORK_OWNER_PREFIX)


def _is_of_nova(port: Port) -> bool:
    """Others have ports too: load balancers, machines without Nova."""
    return port.device_owner.startswith("compute:") and is_uuid(port.device_id)


def _unknown(source: Source, why: str, how: str) -> Finding:
    mend = (
        "# compare the address in the guest with that of its port; is it on this network at all?",
        f"openstack port list --{source.scope.kind} {source.scope.id}",
    )
    return Finding("unknown-address", str(source), f"no instance has this address: {why}", how, mend)


def _several(source: Source, ports: Sequence[Port]) -> Finding:
    who = ", ".join(f"{port.id} (instance {port.device_id})" for port in ports)
    how = f"openstack port list --fixed-ip ip-address={source.address}"
    mend = (f"openstack port unset --fixed-ip ip-address={source.address} PORT", "# of all but one of them")
    return Finding("duplicate-address", str(source), f"several instances have it: ports {who}", how, mend)


def _keystone(neutron: Neutron, error: Unavailable) -> Finding:
    mend = (
        "# compare [neutron] of the file with what works by hand:",
        "openstack token issue",
    )
    where = neutron.auth_url or "[neutron] auth_url"
    return Finding(
        "keystone",
        where,
        f"there is no token: {error}",
        "one was asked for, as [neutron] of the files says",
        mend,
    )


def _neutron(error: Unavailable) -> Finding:
    mend = (
        "openstack port list --limit 1",
        "# if that works, the address in the catalogue or its user differs",
    )
    return Finding("neutron", "Neutron", str(error), "GET /v2.0/ports", mend)


_NOBODY_ID = "00000000-0000-0000-0000-000000000000"
#: Nova looks at the signature before it looks for the instance (spec 3.2): 404 means that it is accepted.
NOBODY = (
    Source("192.0.2.1", Scope("network", _NOBODY_ID)),
    Instance(_NOBODY_ID, _NOBODY_ID, _NOBODY_ID),
)
_TARGET = "/openstack/latest/meta_data.json"
_SLOW = 0.7  # seconds, for an instance that is not there
_SKEW = 5.0  # seconds
_SOON = datetime.timedelta(days=14)
_GOOD = (200, 404)
_SAME_SECRET = (
    "# these two must be equal; SECRET is metadata_proxy_shared_secret in [neutron] of nova.conf:",
    f"mdmw sign {_NOBODY_ID}",
    f"printf %s {_NOBODY_ID} | openssl dgst -sha256 -hmac SECRET",
    "# correct the wrong one, and then:",
    "systemctl reload mdmw-agent  # or mdmw-metadata-agent",
)


def check(nova: Nova, address: Address) -> Iterator[Finding]:
    """Ask as nobody, and look at what comes with the answer."""
    where = str(address)
    if address.scheme == "https":
        yield from _certificate(address, nova)
    began = time.monotonic()
    try:
        answer = ask(nova, address, *NOBODY)
    except BackendSlow as error:
        yield _slow(address, str(error))
        return
    except RequestError as error:
        mend = (_curl("-v", address), "# is nova-api-metadata up, and nova_metadata_host right?")
        yield Finding("nova-unreachable", where, str(error), f"GET {_TARGET}", mend)
        return
    took = time.monotonic() - began
    yield from _skew(where, dict(answer.headers).get("Date") or dict(answer.headers).get("date"))
    if finding := _of_status(answer, address):
        yield finding
    elif took > _SLOW:
        yield _slow(address, f"it took {took:.1f} s to say that an instance is not there")


def ask(nova: Nova, address: Address, source: Source, instance: Instance) -> Answer:
    """With each proof until one is not refused; raises `RequestError`, and `ConfigError`."""
    upstream = Upstream([address], LIMITS, nova.tls if address.scheme == "https" else None)
    deadline = upstream.deadline()
    headers = [("User-Agent", "mdmw-doctor"), ("Accept", "application/json")]
    answer = None
    for proof in nova.proofs(source, instance) or ((),):
        answer = upstream.exchange("GET", _TARGET, [*headers, *proof], deadline=deadline)
        answer.close()
        if answer.status != 403:
            break
    if answer is None:
        raise MdmwError("nothing signs")
    return answer


def clock(url: str) -> Iterator[Finding]:
    """Of Keystone; that it cannot be asked is told elsewhere."""
    with transport.within(WITHIN):
        try:
            session = transport.session(LIMITS)
            response = session.get(url, allow_redirects=False, verify=False)  # for the time of day
        except RequestError:
            return
    yield from _skew(url, response.headers.get("Date"))


def _of_status(answer: Answer, address: Address) -> Finding | None:
    where = str(address)
    how = f"GET {_TARGET}, signed for an instance that is not there: {answer.status}"
    if answer.status in _GOOD:
        return None
    if answer.status == 403:
        return Finding("wrong-secret", where, "Nova refuses the signature (403)", how, _SAME_SECRET)
    what = f"Nova answers {answer.status} {answer.reason}"
    if answer.status >= 500:
        return Finding("nova-error", where, what, how, ("journalctl -u nova-api-metadata -n 50  # there",))
    is_it = "# is it Nova that listens there, with service_metadata_proxy = true?"
    return Finding("nova-answer", where, what, how, (is_it, _curl("-i", address)))


def _slow(address: Address, what: str) -> Finding:
    mend = (
        _curl("-o /dev/null -w '%{time_total}\\n'", address),
        "# look at Nova's load, database and message bus",
    )
    return Finding("nova-slow", str(address), what, f"GET {_TARGET}", mend)


def _curl(words: str, address: Address) -> str:
    if address.scheme == "unix":
        return f"curl {words} --unix-socket {address.path} http://localhost/"
    return f"curl {words} {address}/"


def _skew(where: str, date: str | None) -> Iterator[Finding]:
    try:
        there = email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return
    difference = there - time.time()
    if abs(difference) > _SKEW:
        word = "ahead of" if difference > 0 else "behind"
        what = f"its clock is {abs(difference):.0f} s {word} that of this host"
        mend = ("chronyc tracking  # here and there", "chronyc makestep")
        yield Finding("clock", where, what, f"Date: {date}", mend)


# --- certificates -----------------------------------------------------------------------


def _certificate(address: Address, nova: Nova) -> Iterator[Finding]:
    if path := nova.client_certificate:
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
        yield from _dates(certificate, path, f"openssl x509 -in {path} -noout -dates")
    try:
        with (
            socket.create_connection((address.host, address.port), WITHIN) as sock,
            client_context(insecure=True).wrap_socket(sock, server_hostname=address.host) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
    except (OSError, ssl.SSLError):  # told of when it is asked
        return
    if shown:
        how = f"openssl s_client -connect {address.authority} </dev/null | openssl x509 -dates"
        yield from _dates(x509.load_der_x509_certificate(shown), str(address), how)


def _dates(certificate: x509.Certificate, where: str, how: str) -> Iterator[Finding]:
    now = datetime.datetime.now(datetime.UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    mend = ("# have it renewed by whoever issued it; then reload who uses it",)
    if not begin <= now <= end:
        what = f"the certificate was valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC only"
        yield Finding("certificate-expired", where, what, how, mend)
    elif end - now < _SOON:
        what = f"the certificate ends on {end:%Y-%m-%d %H:%M} UTC"
        yield Finding("certificate-ends", where, what, how, mend)


_MOST_SCOPES = 20  # whose guests are asked for, when nobody says about whom it is
_TO_ANSWER = 0.3  # seconds that stay for the guest's own question


def behind(what: Scene, known: list[Known], notes: Notes, end: float) -> None:
    """Ask, by `end`; the guests that were found are added to `known`."""
    if not what.stages:
        notes.left_out.append(
            "Keystone, Neutron, Nova: no pipeline asks them; name it with --ini, --pipeline"
        )
        return
    there = notes.read(lambda: nova_of(what.stages), None)
    tasks = dict(_who_they_are(what, known, notes))
    if there:
        tasks |= {f"Nova at {address}": partial(_ask, there, address, notes) for address in there.addresses}
    undone = together(tasks, end - _TO_ANSWER)
    notes.omit(undone)
    notes.checked.extend(tasks.keys() - undone.keys())
    for guest in known[:1]:
        _answered(guest, what.sockets[0] if what.sockets else None, there, notes)


def _who_they_are(what: Scene, known: list[Known], notes: Notes) -> Iterable[tuple[str, Callable[[], None]]]:
    neutron = notes.read(lambda: neutron_of(what.stages), None)
    resolver = notes.read(lambda: resolver_of(what.stages), None)
    questions = _questions(what, notes)
    if neutron:
        yield "Keystone and Neutron", lambda: _learn(ask_neutron(neutron, questions), known, notes)
        if url := neutron.auth_url:
            yield "Keystone's clock", lambda: notes.findings.extend(clock(url))
    elif resolver:
        yield "inventory", lambda: _learn(ask_resolver(resolver, questions), known, notes)
    else:
        notes.left_out.append("who has an address: its resolver is neither Neutron's REST API nor a file")


def _questions(what: Scene, notes: Notes) -> list[tuple[Scope, str | None]]:
    scopes = list(dict.fromkeys(place.scope for place in what.places if place.binds))
    if not scopes and what.asked.scope:
        scopes = [what.asked.scope]
    if len(scopes) > _MOST_SCOPES and not what.asked.address:
        notes.left_out.append(f"the guests of {len(scopes) - _MOST_SCOPES} networks: name one with --network")
        scopes = scopes[:_MOST_SCOPES]
    return [(scope, what.asked.address) for scope in scopes]


def _learn(answers: Iterable[Finding | Known], known: list[Known], notes: Notes) -> None:
    for one in answers:
        if isinstance(one, Known):
            known.append(one)
            notes.checked.append(f"{one.source} is instance {one.instance.id}")
        else:
            notes.findings.append(one)


def _ask(there: Nova, address: Address, notes: Notes) -> None:
    notes.findings.extend(check(there, address))


def _answered(guest: Known, agent: Path | None, there: Nova | None, notes: Notes) -> None:
    """As its proxy would ask for it, or straight to Nova where there is no agent in between."""
    if agent is None and there is None:
        return
    where = f"the agent at {agent}" if agent else "Nova"
    how = f"GET {_TARGET} for {guest.source}"
    mend = (
        "# the log of the agent says why; its request id is in the answer:",
        "journalctl -u 'mdmw-*' -n 20",
    )
    try:
        answer = _of_agent(guest, agent) if agent else _of_nova(guest, there)
    except RequestError as error:
        notes.findings.append(Finding("answer", str(guest.source), f"{where}: {error}", how, mend))
        return
    if answer and answer.status != 200:
        what = f"{where} answers {answer.status} {answer.reason} for instance {guest.instance.id}"
        notes.findings.append(Finding("answer", str(guest.source), what, how, mend))
    else:
        notes.checked.append(f"{guest.source} gets its metadata from {where}")


def _of_agent(guest: Known, agent: Path) -> Answer:
    headers = [("User-Agent", "mdmw-doctor"), *source_headers(guest.source)]
    answer = Upstream([Address("unix", path=str(agent))], LIMITS).exchange("GET", _TARGET, headers)
    answer.close()
    return answer


def _of_nova(guest: Known, there: Nova | None) -> Answer | None:
    return ask(there, there.addresses[0], guest.source, guest.instance) if there else None
