"""Every filter of mdmw passes the suite that authors of filters run; and the suite finds faults."""

import pytest

from mdmw.boundary.stage import Filter
from mdmw.errors import Unavailable
from mdmw.filters import (
    access_log,
    hmac_sign,
    hmac_verify,
    instance_resolve,
    introspect,
    metrics,
    source_identify,
)
from mdmw.records import PROOFS
from mdmw.testing import filters
from mdmw.testing.filters import (
    GUEST,
    GUEST_INSTANCE,
    NETWORK,
    FilterConformance,
    RecordingApp,
    ask,
    fake_upstream,
    guest_environ,
)
from mdmw.upstream.exchange import Limits, Upstream

SECRET = "the secret of the tests"


class TestSourceIdentify(FilterConformance):
    def make_filter(self, app):
        return source_identify.filter_factory({}, mode="fixed", network_id=NETWORK)(app)

    def make_refused_environ(self):
        return guest_environ(source=None, REMOTE_ADDR="127.0.0.1")


class Resolver:
    """Knows one guest."""

    contract_version = 1
    options = ()

    def resolve(self, source, *, fresh=False):
        if source != GUEST:
            raise Unavailable(f"{source}: the back end is down")
        return GUEST_INSTANCE


class TestInstanceResolve(FilterConformance):
    def make_filter(self, app):
        return instance_resolve.InstanceResolve(app, Resolver())

    def make_refused_environ(self):
        return guest_environ(source=filters.Source("10.0.0.6", GUEST.scope))


class TestHmacSign(FilterConformance):
    def make_filter(self, app):
        return hmac_sign.filter_factory({}, metadata_proxy_shared_secret=SECRET)(app)


class TestHmacVerify(FilterConformance):
    removes = (
        "HTTP_X_FORWARDED_FOR",
        "HTTP_X_INSTANCE_ID",
        "HTTP_X_INSTANCE_ID_SIGNATURE",
        "HTTP_X_TENANT_ID",
    )

    def make_filter(self, app):
        return hmac_verify.filter_factory({}, metadata_proxy_shared_secret=SECRET)(app)

    def make_environ(self):
        signed = RecordingApp()
        environ = TestHmacSign().make_environ()
        ask(TestHmacSign().make_filter(signed), environ)
        (proof,) = signed.environs[0][PROOFS]
        headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in proof}
        return guest_environ(source=None) | headers

    def make_refused_environ(self):
        return self.make_environ() | {"HTTP_X_INSTANCE_ID_SIGNATURE": "0" * 64}


class TestAccessLog(FilterConformance):
    def make_filter(self, app):
        return access_log.filter_factory({})(app)


class TestMetrics(FilterConformance):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path):
        self.directory = tmp_path / "metrics"
        self.directory.mkdir()

    def make_filter(self, app):
        return metrics.filter_factory({}, metrics_dir=str(self.directory))(app)


class TestIntrospect(FilterConformance):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path):
        self.directory = tmp_path / "sockets"

    def make_filter(self, app):
        return introspect.filter_factory({}, introspect_dir=str(self.directory))(app)


class TestOfAnAuthor(FilterConformance):
    """A filter that is made with `mdmw.boundary.stage`."""

    def make_filter(self, app):
        return NotNow(app)

    def make_refused_environ(self):
        return guest_environ("/not-now")


class NotNow(Filter):
    def prepare(self, environ):
        if environ["PATH_INFO"] == "/not-now":
            raise Unavailable(f"{NETWORK} is being repaired", retry_after=7)


# --- the suite finds faults ---------------------------------------------------------------------


def removes(app):
    def filter_(environ, start_response):
        return app({key: environ[key] for key in environ if key != "HTTP_X_OTHER"}, start_response)

    return filter_


def never_closes(app):
    def filter_(environ, start_response):
        return list(app(environ, start_response))

    return filter_


def calls_twice(app):
    def filter_(environ, start_response):
        list(app(environ, start_response))
        return app(environ, start_response)

    return filter_


def hides_errors(app):
    def filter_(environ, start_response):
        try:
            return app(environ, start_response)
        except Exception:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b""]

    return filter_


def breaks_pep_3333(app):
    def filter_(environ, start_response):
        return app(environ, lambda status, headers: start_response(status, dict(headers)))

    return filter_


class Chatty(Filter):
    """Tells the guest what is for operators only."""

    def __call__(self, environ, start_response):
        start_response("503 Service Unavailable", [("Content-Type", "text/plain"), ("Retry-After", "1")])
        return [f"{GUEST} is unknown".encode()]


@pytest.mark.parametrize(
    ("filter_", "test"),
    [
        (removes, "test_the_filter_removes_nothing"),
        (never_closes, "test_the_body_is_closed_once"),
        (calls_twice, "test_the_request_is_passed_on"),
        (hides_errors, "test_an_error_of_the_application_is_not_hidden"),
        (breaks_pep_3333, "test_the_request_is_passed_on"),
        (Chatty, "test_w18_a_refusal_is_an_answer"),
    ],
)
def test_a_fault_is_found(filter_, test):
    class Faulty(FilterConformance):
        def make_filter(self, app):
            return filter_(app)

        def make_refused_environ(self):
            return guest_environ()

    with pytest.raises(AssertionError):
        getattr(Faulty(), test)()


# --- the tools ------------------------------------------------------------------------------------


def test_the_fake_upstream_answers_as_told():
    with fake_upstream() as upstream:
        upstream.status, upstream.body, upstream.headers = 418, b"tea", {"X-Pot": "brown"}
        client = Upstream([upstream.address], Limits())
        answer = client.exchange("POST", "/a?b=c", [("X-One", "1")], b"leaves")
        assert (answer.status, answer.body) == (418, b"tea")
        assert ("X-Pot", "brown") in answer.headers
        assert client.exchange("HEAD", "/", []).body == b""
        client.close()
    first, second = upstream.requests
    assert (first.method, first.target, first.body, first.headers["x-one"]) == (
        "POST",
        "/a?b=c",
        b"leaves",
        "1",
    )
    assert second.method == "HEAD"


def test_the_environ_of_a_guest():
    environ = guest_environ("/latest/user%20data?x=1", "PUT", HTTP_ACCEPT="*/*")
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/latest/user data", "x=1")
    assert (environ["REQUEST_METHOD"], environ["HTTP_ACCEPT"]) == ("PUT", "*/*")
