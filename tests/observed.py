"""Helpers of the tests of observing filters."""

from mdmw.observe.background import Observed, flush


class Observer:
    """One that does nothing; others are this and more."""

    def over(self, journal):
        pass

    def flush(self):
        pass

    def forget(self):
        pass


class Kept(Observer):
    """Keeps the journals."""

    def __init__(self):
        self._journals = []
        self.over = self._journals.append

    @property
    def journals(self):
        flush()
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
