"""Helpers of the tests of observing filters."""

import threading

from mdmw.boundary.observer import Observed

PATIENCE = 10.0


class Kept:
    """An observer that keeps the journals; `wait(n)` returns once it has n."""

    def __init__(self):
        self.journals = []
        self._condition = threading.Condition()

    def over(self, journal):
        with self._condition:
            self.journals.append(journal)
            self._condition.notify_all()

    def wait(self, number):
        with self._condition:
            assert self._condition.wait_for(lambda: len(self.journals) >= number, PATIENCE)
            return self.journals


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
