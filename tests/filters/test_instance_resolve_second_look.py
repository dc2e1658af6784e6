"""instance-resolve and a 404 for an identity that was only remembered (R-11, R-12)."""

import io
import threading

import pytest
from guest import call, environ, send

from mdmw.errors import NotIdentified, Unavailable
from mdmw.filters.instance_resolve import Resolving
from mdmw.records import INSTANCE, PROOFS, SOURCE, Instance, Scope, Source
from mdmw.resolvers.caching import CacheLimits, Caching
from mdmw.resolvers.contract import Port, Snapshot

NETWORK = Scope("network", "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31")
ADDRESS, OLD_MAC, NEW_MAC = "10.0.0.5", "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
HERE = {SOURCE: Source(ADDRESS, NETWORK)}
OLD, NEW = Instance("old", "project", "port-old"), Instance("new", "project", "port-new")


class Neutron:
    """A resolver with snapshots; it has one address."""

    contract_version = 1
    options = ()

    def __init__(self):
        self.asked = 0
        self.failure = None
        self.holder(OLD, OLD_MAC)

    def holder(self, instance, mac):
        self.instance, self.mac = instance, mac

    def resolve(self, source, *, fresh=False):
        return self.snapshot(source.scope).resolve(source)

    def snapshot(self, scope):
        self.asked += 1
        if self.failure:
            raise self.failure
        if self.instance is None:
            return Snapshot(())
        found = self.instance
        port = Port(
            found.port_id, scope.id, self.mac, found.id, "compute:a", found.project_id, ((ADDRESS, "s"),)
        )
        return Snapshot([port])


class Nova:
    """The end of a pipeline: 404 for instances it does not have; remembers whom it was asked for."""

    def __init__(self, *instances):
        self.instances = set(instances)
        self.asked = []
        self.closed = 0

    def __call__(self, made, start_response):
        instance = made[INSTANCE]
        self.asked.append(instance.id)
        assert PROOFS not in made, "signed for the instance before"
        made[PROOFS] = instance.id
        made["PATH_INFO"] = "/changed"
        made["wsgi.input"].read(65536)
        found = instance.id in self.instances and made["QUERY_STRING"] != "missing"
        start_response("200 OK" if found else "404 Not Found", [("Content-Type", "text/plain")])
        return Body(self, [f"of {instance.id}".encode()] if made["REQUEST_METHOD"] != "HEAD" else [])


class Body(list):
    def __init__(self, nova, pieces):
        super().__init__(pieces)
        self._nova = nova

    def close(self):
        self._nova.closed += 1


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        self.now += 1e-6
        return self.now


class Setting:
    """A guest that has asked before, so that its identity is remembered; with `mac`, its MAC was seen."""

    def __init__(self, mac=None):
        self.clock, self.neutron, self.nova = Clock(), Neutron(), Nova("old")
        self.source = {SOURCE: Source(ADDRESS, NETWORK, mac)}
        self.app = Resolving(Caching(self.neutron, CacheLimits(idle=2.0), clock=self.clock))(self.nova)
        assert self.ask().body == b"of old"
        self.clock.now += 0.1

    def ask(self, *args, **kwargs):
        return call(self.app, *args, **self.source, **kwargs)

    def reuse(self):
        """The old instance goes, and the new one gets its address."""
        self.neutron.holder(NEW, NEW_MAC)
        self.nova.instances = {"new"}


@pytest.fixture
def setting():
    return Setting()


def test_r11_the_old_instance_is_gone(setting):
    """R-11: Nova says 404 for the remembered one; the guest gets the answer for the new one."""
    setting.reuse()
    reply = setting.ask()
    assert (reply.status, reply.body) == (200, b"of new")
    assert setting.nova.asked == ["old", "old", "new"]
    assert setting.neutron.asked == 2
    assert setting.nova.closed == 3
    assert setting.ask().body == b"of new"
    assert setting.neutron.asked == 2


def test_r11_head_is_asked_again_too(setting):
    setting.reuse()
    assert setting.ask("HEAD").status == 200


def test_r11_a_mac_that_was_seen_needs_no_404():
    """R-11: the old instance is still there at Nova, and yet the new guest gets its own answer."""
    setting = Setting(OLD_MAC)
    setting.neutron.holder(NEW, NEW_MAC)
    setting.nova.instances = {"old", "new"}
    setting.source = {SOURCE: Source(ADDRESS, NETWORK, NEW_MAC)}
    assert setting.ask().body == b"of new"
    assert setting.nova.asked == ["old", "new"]


def test_r11_after_silence_the_old_one_is_not_tried(setting):
    """Without a MAC, and Nova still answers for the old one."""
    setting.neutron.holder(NEW, NEW_MAC)
    setting.nova.instances = {"old", "new"}
    setting.clock.now += 2
    assert setting.ask().body == b"of new"
    assert setting.nova.asked == ["old", "new"]


def test_r12_a_true_404_is_asked_for_once(setting):
    """R-12: the identity is young and was confirmed, so that the answer stands."""
    reply = setting.ask(target="/x?missing")
    assert (reply.status, reply.body) == (404, b"of old")
    assert setting.nova.asked == ["old", "old"]
    assert setting.neutron.asked == 2
    assert setting.nova.closed == 2


def test_r12_an_older_identity_is_tried_again(setting):
    """R-12: after more than 2 seconds also when it did not change."""
    for _ in range(3):
        setting.clock.now += 1
        setting.ask()
    reply = setting.ask(target="/x?missing")
    assert (reply.status, reply.body) == (404, b"of old")
    assert setting.nova.asked == ["old"] * 6


def test_r12_a_mac_that_was_seen_is_believed():
    """The three or four true 404s of a boot cost nothing."""
    setting = Setting(OLD_MAC)
    for _ in range(4):
        assert setting.ask(target="/x?missing").status == 404
    assert setting.neutron.asked == 1
    setting.clock.now += 2
    assert setting.ask(target="/x?missing").status == 404
    assert setting.neutron.asked == 2


def test_what_was_asked_for_this_request_is_not_asked_again():
    setting = Setting()
    setting.clock.now += 20
    assert setting.ask(target="/x?missing").status == 404
    assert setting.neutron.asked == 2
    assert setting.nova.asked == ["old", "old"]


def test_r11_nobody_has_the_address_now(setting):
    """R-11: the 404 is then ours, and says nothing of the old instance."""
    setting.neutron.holder(None, None)
    setting.nova.instances = set()
    reply = setting.ask()
    assert reply.status == 404
    assert b"No instance was identified" in reply.body
    assert setting.nova.closed == 2


def test_r11_it_cannot_be_found_out(setting):
    """1.6: a 404 would be final for the guest."""
    setting.neutron.failure = Unavailable("down", 7)
    setting.nova.instances = set()
    reply = setting.ask()
    assert (reply.status, reply.value("Retry-After")) == (503, "7")
    assert setting.nova.closed == 2


def test_r11_a_defect_ends_in_an_answer(setting):
    setting.neutron.failure = KeyError(NETWORK.id)
    setting.nova.instances = set()
    reply = setting.ask()
    assert reply.status == 500
    assert NETWORK.id.encode() not in reply.body


@pytest.mark.parametrize(
    ("method", "body"), [("POST", b"password"), ("PUT", b""), ("DELETE", b""), ("GET", b"a body")]
)
def test_r12_what_cannot_be_sent_twice_gets_503(setting, method, body):
    """Its body is gone; the guest asks again, and finds the right instance."""
    setting.reuse()
    reply = setting.ask(method, body=body)
    assert reply.status == 503
    assert reply.value("Retry-After")
    assert setting.nova.asked == ["old", "old"]
    assert setting.ask(method, body=body).body == b"of new"


def test_r12_a_true_404_for_a_post_stands(setting):
    setting.clock.now += 1.9
    setting.ask()
    setting.clock.now += 1.9
    assert setting.ask("POST", "/x?missing", body=b"x").body == b"of old"
    assert setting.nova.asked == ["old"] * 3


def test_r13_other_statuses_are_passed_on(setting):
    """R-13: only a 404 makes it ask again."""
    for status in ("403 Forbidden", "400 Bad Request", "409 Conflict", "500 Internal Server Error"):
        setting.app = Resolving(setting.app._cache)(responds(status))
        assert setting.ask().line == status
    assert setting.neutron.asked == 1


def responds(status):
    def app(made, start_response):
        start_response(status, [("Content-Type", "text/plain")])
        return [b"x"]

    return app


def test_r13_old_answers_are_for_reading(setting):
    """R-13: while Neutron is down GET and HEAD get on with an expired identity, POST does not."""
    setting.clock.now += 20
    setting.neutron.failure = Unavailable("down")
    assert setting.ask().body == b"of old"
    assert setting.ask("HEAD").status == 200
    assert setting.ask("POST", body=b"x").status == 503


def test_no_guest_gets_anothers_answer_however_many_ask():
    """R-11: twenty threads ask all the time while the address changes hands; Nova knows the newest only."""
    neutron, nova, wrong = Neutron(), Nova(), []
    app = Resolving(Caching(neutron, CacheLimits(idle=2.0)))(nova)
    stop = threading.Event()
    begun = done = 0  # the newest holder of the address: from when it begins to be, and when it is

    def change():
        nonlocal begun, done
        begun += 1
        instance = Instance(str(begun), "project", f"port-{begun}")
        neutron.holder(instance, OLD_MAC)
        nova.instances = {instance.id}
        done = begun

    def ask():
        while not stop.is_set():
            before = done
            reply = call(app, validate=False, **HERE)
            after = begun
            if reply.status == 404:
                right = before != after
            else:
                right = before <= int(reply.body.removeprefix(b"of ")) <= after
            if not right:
                wrong.append((before, reply, after))

    change()
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        asked = len(nova.asked)
        while len(nova.asked) < asked + 100:
            stop.wait(0.002)
        change()
        assert call(app, validate=False, **HERE).body == b"of %d" % done
    stop.set()
    for thread in threads:
        thread.join(20)
    assert wrong == []


# --- applications of other people ------------------------------------------------------------------


class Script:
    """An application that answers the first call by one function, later ones by another."""

    def __init__(self, first, then):
        self.calls = [first, then]

    def __call__(self, made, start_response):
        return self.calls.pop(0)(made, start_response)


def second_look(first, then=None):
    then = then or responds("200 OK")
    setting = Setting()
    setting.reuse()
    setting.app = Resolving(setting.app._cache)(Script(first, then))
    return setting


def test_an_application_that_says_its_status_late():
    """A generator calls start_response only when it is iterated."""
    closed = []

    def late(status):
        def app(made, start_response):
            try:
                start_response(status, [("Content-Type", "text/plain")])
                yield b"one "
                yield b"two"
            finally:
                closed.append(status)

        return app

    assert second_look(late("404 Not Found")).ask().body == b"x"
    assert closed == ["404 Not Found"]
    assert second_look(late("200 OK")).ask().body == b"one two"
    assert second_look(late("404 Not Found"), late("404 Not Found")).ask().body == b"one two"


def test_an_application_that_breaks_before_its_status():
    closed = []

    class Breaks:
        def __iter__(self):
            raise ValueError("broken")

        def close(self):
            closed.append(True)

    with pytest.raises(ValueError, match="broken"):
        second_look(lambda made, start_response: Breaks()).ask(validate=False)
    assert closed == [True]


def test_an_application_that_writes():
    """`write` of start_response: nothing of a 404 that does not stand is sent, nothing of another is lost."""

    def writes(status):
        def app(made, start_response):
            write = start_response(status, [("Content-Type", "text/plain")])
            write(b"written ")
            return late(write)

        def late(write):
            write(b"late ")
            yield b"x"

        return app

    def written(setting):
        sent = []

        def start_response(status, headers, exc_info=None):
            sent.append(status)
            return sent.append

        sent += setting.app(environ(**setting.source), start_response)
        return sent

    assert written(second_look(writes("404 Not Found"))) == ["200 OK", b"x"]
    assert written(second_look(writes("200 OK"))) == ["200 OK", b"written ", b"late ", b"x"]
    stays = Setting()
    stays.app = Resolving(stays.app._cache)(writes("404 Not Found"))
    assert written(stays) == ["404 Not Found", b"written ", b"late ", b"x"]


def test_an_application_that_changes_its_mind():
    """start_response with exc_info replaces a 404 that was not sent, and is passed on whole."""

    def app(made, start_response):
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        error = ValueError("broken")
        start_response("500 Broken", [("Content-Type", "text/plain")], (ValueError, error, None))
        return [b"broken"]

    reply = second_look(app).ask()
    assert (reply.status, reply.body) == (500, b"broken")


def test_the_environ_is_as_it_was():
    """The second pass sees the request of the first, also what the application took from it."""
    seen = []

    def first(made, start_response):
        made["SCRIPT_NAME"], made["PATH_INFO"] = "/latest", ""
        made[PROOFS] = "of the old one"
        made["mdmw.more"] = 1
        return responds("404 Not Found")(made, start_response)

    def then(made, start_response):
        seen.append(dict(made))
        return responds("200 OK")(made, start_response)

    setting = second_look(first, then)
    made = environ(target="/latest/meta-data", **setting.source)
    before = dict(made)
    assert send(setting.app, made, validate=False).status == 200
    assert seen[0] == before | {INSTANCE: NEW}


def test_nothing_is_held_back_when_nothing_was_remembered():
    """A large answer is not read, and a 404 goes straight through."""
    neutron, sent = Neutron(), []
    body = io.BytesIO(b"x")
    app = Resolving(Caching(neutron, CacheLimits(idle=2.0)))(
        lambda made, start_response: start_response("404 Not Found", []) and body
    )
    result = app(environ(**HERE), lambda *line: sent.append(line) or sent.append)
    assert result is body
    assert sent == [("404 Not Found", [])]


def test_who_is_nobody_is_remembered_too():
    neutron = Neutron()
    neutron.holder(None, None)
    app = Resolving(Caching(neutron, CacheLimits(idle=2.0)))(Nova())
    for _ in range(3):
        assert call(app, **HERE).status == 404
    assert neutron.asked == 1


def test_r11_again_raises_what_it_finds():
    setting = Setting()
    setting.neutron.holder(None, None)
    with pytest.raises(NotIdentified):
        setting.app._cache.resolve(setting.source[SOURCE], fresh=True)
