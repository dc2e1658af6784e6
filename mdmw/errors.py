"""What can go wrong, in the words of this domain.

The text of an error is for the log; what a guest reads is decided in one place,
`mdmw.boundary.stage` (W-18).
"""


class MdmwError(Exception):
    """Base of every error that mdmw raises on purpose."""


class ConfigError(MdmwError):
    """Something in a configuration file or on the command line; one line, said at load."""


class RequestError(MdmwError):
    """Base of what ends a request; the filter that raises it is where the request stops."""


class BadRequest(RequestError):
    """The request is malformed, or claims something it may not."""


class Contradiction(BadRequest):
    """What a hop says of a guest does not fit together: an attack, or a broken hop."""


class MethodNotAllowed(BadRequest):
    """A method that is never relayed (W-6), or that this path does not have (E-4)."""

    def __init__(self, reason: str, allow: tuple[str, ...]) -> None:
        super().__init__(reason)
        self.allow = allow


class RequestTimeout(BadRequest):
    """The guest did not finish its request in time."""


class LengthRequired(BadRequest):
    """A chunked body on a server that does not decode them."""


class BodyTooLarge(BadRequest):
    """More body than the limit of W-9."""


class TargetTooLong(BadRequest):
    """A longer request target than the limit of W-9."""


class HeadersTooLarge(BadRequest):
    """More header bytes than the limit of W-9."""


class NotIdentified(RequestError):
    """No instance, or several, for this source; final (R-6)."""


class NotFound(RequestError):
    """The instance is known, but it has nothing at this path (E-3)."""


class Conflict(RequestError):
    """What can be written once is there already (spec 7.4)."""


class Outdated(Conflict):
    """What is to be changed is not any more what the caller has seen."""


class Unauthorized(RequestError):
    """No session token, or not a good one (spec 7.6)."""


class Forbidden(RequestError):
    """The guest may not ask for this, whoever it is (spec 7.6)."""


class Refused(RequestError):
    """The peer, or Nova, refused the proof of identity."""


class BackendError(RequestError):
    """The back end answered something that cannot be passed on."""


class BackendLost(BackendError):
    """The back end went away in the middle of a request that must not be sent again."""


class Unavailable(RequestError):
    """A transient fault; asking again soon may help."""

    def __init__(self, reason: str, retry_after: int = 1) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """No slot became free in time."""


class BackendSlow(RequestError):
    """The back end did not answer within its budget."""


class PipelineError(MdmwError):
    """A filter was called without the record that an earlier one should have left."""
