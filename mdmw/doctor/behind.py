"""What is behind the agent, all of it at once; and then a guest's own question, through everything."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from mdmw.doctor import identity, nova, upstream
from mdmw.doctor.findings import Finding
from mdmw.doctor.identity import Known
from mdmw.doctor.notes import Notes
from mdmw.doctor.scene import Scene
from mdmw.doctor.together import together
from mdmw.doctor.upstream import LIMITS, Nova
from mdmw.errors import RequestError
from mdmw.records import Scope
from mdmw.upstream.address import Address
from mdmw.upstream.exchange import Answer, Upstream
from mdmw.wire import source_headers

_MOST_SCOPES = 20  # whose guests are asked for, when nobody says about whom it is
_TO_ANSWER = 0.3  # seconds that stay for the guest's own question
_TARGET = "/openstack/latest/meta_data.json"


def behind(what: Scene, known: list[Known], notes: Notes, end: float) -> None:
    """Ask, by `end`; the guests that were found are added to `known`."""
    if not what.stages:
        notes.left_out.append(
            "Keystone, Neutron, Nova: no pipeline asks them; name it with --ini, --pipeline"
        )
        return
    there = notes.read(lambda: upstream.nova(what.stages), None)
    tasks = dict(_who_they_are(what, known, notes))
    if there:
        tasks |= {f"Nova at {address}": partial(_ask, there, address, notes) for address in there.addresses}
    undone = together(tasks, end - _TO_ANSWER)
    notes.omit(undone)
    notes.checked.extend(tasks.keys() - undone.keys())
    for guest in known[:1]:
        _answered(guest, what.sockets[0] if what.sockets else None, there, notes)


def _who_they_are(what: Scene, known: list[Known], notes: Notes) -> Iterable[tuple[str, Callable[[], None]]]:
    neutron = notes.read(lambda: upstream.neutron(what.stages), None)
    resolver = notes.read(lambda: upstream.resolver(what.stages), None)
    questions = _questions(what, notes)
    if neutron:
        yield "Keystone and Neutron", lambda: _learn(identity.ask_neutron(neutron, questions), known, notes)
        if url := neutron.auth_url:
            yield "Keystone's clock", lambda: notes.findings.extend(nova.clock(url))
    elif resolver:
        yield "inventory", lambda: _learn(identity.ask_resolver(resolver, questions), known, notes)
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
    notes.findings.extend(nova.check(there, address))


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
    return nova.ask(there, there.addresses[0], guest.source, guest.instance) if there else None
