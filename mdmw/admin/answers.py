"""What the admin API answers: JSON, and for errors {"error": {"code", "title", "message", "request_id"}}.

Its callers are operators, so the text of an error is for them too, and not only for the log.
"""

import json
import logging
from http import HTTPStatus
from typing import Any

from webob import Response

from mdmw import errors, wire
from mdmw.observe import ids, journal

LOG = logging.getLogger(__name__)

JSON = "application/json"


class WrongType(errors.BadRequest):
    """A body that is not JSON, by its Content-Type."""


class VersionNeeded(errors.BadRequest):
    """A change without If-Match, which could undo what another operator did."""


_STATUSES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    # The first class that fits decides, so the special ones come first.
    (errors.BodyTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.LengthRequired, HTTPStatus.LENGTH_REQUIRED),
    (errors.RequestTimeout, HTTPStatus.REQUEST_TIMEOUT),
    (errors.MethodNotAllowed, HTTPStatus.METHOD_NOT_ALLOWED),
    (WrongType, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (VersionNeeded, HTTPStatus.PRECONDITION_REQUIRED),
    (errors.BadRequest, HTTPStatus.BAD_REQUEST),
    (errors.NotIdentified, HTTPStatus.NOT_FOUND),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.Outdated, HTTPStatus.PRECONDITION_FAILED),
    (errors.Conflict, HTTPStatus.CONFLICT),
    (errors.Unauthorized, HTTPStatus.UNAUTHORIZED),
    (errors.Forbidden, HTTPStatus.FORBIDDEN),
    (errors.BackendSlow, HTTPStatus.GATEWAY_TIMEOUT),
    (errors.BackendError, HTTPStatus.BAD_GATEWAY),
    (errors.Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)
_DEFECT = "mdmw has a defect; its log says more under this request id"


def new_request_id() -> str:
    """That of the journal, where somebody keeps one."""
    kept = journal.current()
    return kept.request_id if kept else ids.new_request_id()


def reply(document: Any, status: int = 200) -> Response:
    """A good answer."""
    response = Response(json.dumps(document), status=status, content_type=JSON, charset="UTF-8")
    response.headers["Cache-Control"] = "no-store"  # there may be passwords in it
    return response


def refusal(error: Exception, request_id: str, who: object) -> Response:
    """The answer to an error, after logging it; an exception nobody meant to raise becomes a 500."""
    journal.note_error(error)
    who = wire.one_line(str(who))
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), None)
    if status is None:
        LOG.error("%s %s: unexpected", request_id, who, exc_info=error)
        return _page(HTTPStatus.INTERNAL_SERVER_ERROR, _DEFECT, request_id)
    message = wire.one_line(str(error))
    level = logging.WARNING if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO
    LOG.log(level, "%s %s: %d: %s", request_id, who, status, message)
    response = _page(status, message, request_id)
    if isinstance(error, errors.Unavailable):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allow)
    return response


def _page(status: HTTPStatus, message: str, request_id: str) -> Response:
    said = {"code": status.value, "title": status.phrase, "message": message, "request_id": request_id}
    response = reply({"error": said}, status.value)
    response.headers[wire.REQUEST_ID] = request_id
    return response
