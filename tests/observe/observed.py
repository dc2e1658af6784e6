"""Helpers of the tests of observing filters."""

import threading

from mdmw.boundary.observer import Observed, flush

PATIENCE = 10.0


class Kept:
    """An observer that keeps the journals; `wait(n)` returns once it has n."""

    def __init__(self):
        self._journals = []
        self._condition = threading.Condition()

    @property
    def journals(self):
        flush()
        return self._journals

    def over(self, journals):
        with self._condition:
            self._journals += journals
            self._condition.notify_all()

    def wait(self, number):
        with self._condition:
            assert self._condition.wait_for(lambda: len(self._journals) >= number, PATIENCE)
            return self._journals


def observed(app, *observers):
    """The application with these in front of it, the first one outermost."""
    for observer in reversed(observers):
        app = Observed(app, observer)
    return app


def saying(body=(b"abc",), status="200 OK", headers=()):
    """An application that answers so; a body that is no list is one on its way."""

    def app(environ, start_response):
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return body

    return app
