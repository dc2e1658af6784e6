"""Helpers of the tests of observing filters."""

from mdmw.boundary.stage import chain
from mdmw.observe.recording import Observed


class Observer:
    """One that does nothing; others are this and more."""

    def over(self, journals):
        pass

    def forget(self):
        pass

    def close(self):
        pass


class Kept(Observer):
    """Keeps the journals."""

    def __init__(self):
        self._journals = []
        self.catch_up = lambda: None

    def over(self, journals):
        self._journals += journals

    @property
    def journals(self):
        self.catch_up()
        return self._journals


def observed(app, *observers):
    """The application with these in front of it, the first one outermost."""
    for observer in reversed(observers):
        app = Observed(app, observer)
        observer.catch_up = app.flush
    return app


def saying(body=(b"abc",), status="200 OK", headers=()):
    """An application that answers so; a body that is no list is one on its way."""

    def app(environ, start_response):
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return body

    return app


def settle(app):
    """Have all that observes `app` told of the requests that are over, and do what it does with them."""
    for stage in chain(app):
        if isinstance(stage, Observed):
            stage.flush()
            getattr(stage.observer, "flush", lambda: None)()
