"""One connection of a guest to mdmw-node: its requests, one after the other, and the answers.

gunicorn parses the requests, so a guest meets the limits and the strictness that doc/servers.rst describes
for gunicorn with gevent. The answers are written here, because gunicorn's own way to answer takes a third of
the processor time of a request (doc/bench.rst).
"""

import contextlib
import errno
import logging
import socket
import struct
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import unquote_to_bytes

import gevent
from gunicorn.config import Config
from gunicorn.http import RequestParser, errors

from mdmw.boundary.peer import LISTENER_MAC
from mdmw.boundary.stage import App
from mdmw.errors import MdmwError
from mdmw.records import Environ
from mdmw.wire import one_line

LOG = logging.getLogger(__name__)

_BODY_EXTRA = 1.0  # seconds; a body may be silent for this much longer than a head may take as a whole
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
_SAME_FOR_ALL: Environ = {
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
    "SERVER_SOFTWARE": "mdmw-node",
    "SCRIPT_NAME": "",
}
_STATUS_OF = (
    (errors.LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG),
    (errors.LimitRequestHeaders, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    (errors.ExpectationFailed, HTTPStatus.EXPECTATION_FAILED),
    (errors.UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED),
    (errors.ParseException, HTTPStatus.BAD_REQUEST),
)
_TCP_SAVED_SYN = 28  # linux/tcp.h
_SYN_BYTES = 256
_ETHERNET = struct.Struct("!6s6sH")
_IP_VERSIONS = {0x0800: 4, 0x86DD: 6}  # by EtherType


@dataclass(slots=True)
class Service:
    """What the connections of one worker share.

    `config` has the limits of gunicorn. `patience` is the number of seconds in which a guest must send the
    head of a request. When `is_ending` is set, each connection ends after its next answer.
    """

    application: App
    config: Config
    patience: float
    is_ending: bool = False


class Conversation:
    """Serves one connection `sock` of the guest at `address`, which is a socket address.

    `of_listener` is the part of the environ that tells the listener. `on_link` says that no router is between
    the guest and the listener.
    """

    def __init__(
        self, service: Service, of_listener: Environ, on_link: bool, sock: Any, address: tuple[Any, ...]
    ) -> None:
        self._service = service
        self._of_listener = of_listener
        self._on_link = on_link
        self._sock = sock
        self._address = address
        self._is_idle = True
        self._mac: str | None = None
        self._knows_mac = False

    def run(self) -> None:
        """Answer requests until the guest or the worker ends the connection, and close the socket."""
        self._sock.settimeout(self._service.config.keepalive + _BODY_EXTRA)
        # The parser would need the address to decide whose forwarding headers to believe: nobody's, here.
        parser = RequestParser(self._service.config, self._sock, None)
        try:
            while self._answer_next(parser):
                pass
        except errors.ParseException as error:
            LOG.info("%s: a request is refused: %s", self._address[0], one_line(str(error)))
            self._refuse(next(status for kind, status in _STATUS_OF if isinstance(error, kind)))
        except OSError as error:
            if error.errno not in _GONE:
                LOG.info("the connection of a guest is lost: %s", error)
        except Exception as error:
            _log_defect(error)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
        finally:
            with contextlib.suppress(OSError):
                self._sock.close()

    def hurry(self) -> None:
        """End the connection now, if no request is being answered."""
        if self._is_idle:
            self._sock.shutdown(socket.SHUT_RD)

    def mac(self) -> str | None:
        """The MAC of the guest that opened the connection (R-8); None when the kernel does not know it."""
        if not self._knows_mac:
            self._knows_mac = True  # the kernel gives the packet out only once
            if self._on_link:
                self._mac = _sender(self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _SYN_BYTES))
        return self._mac

    def _answer_next(self, parser: RequestParser) -> bool:
        """Answer one request; whether another one may follow."""
        self._is_idle = True
        request = None
        with gevent.Timeout(self._service.patience, False), contextlib.suppress(errors.NoMoreData):
            request = next(parser, None)
        if request is None:
            return False
        self._is_idle = False
        answer = _Answer(self._sock, request, is_last=self._service.is_ending)
        environ = self._environ(request)
        if request.version >= (1, 1) and environ.get("HTTP_EXPECT", "").lower() == "100-continue":
            _send(self._sock, _CONTINUE)
        parts = self._service.application(environ, answer.start_response)
        try:
            answer.send(parts)
        except OSError:
            raise
        except Exception as error:
            if not answer.is_begun:
                raise
            _log_defect(error)
            return False
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return not answer.is_last

    def _environ(self, request: Any) -> Environ:
        major, minor = request.version
        environ = {
            **_SAME_FOR_ALL,
            **self._of_listener,
            "wsgi.input": request.body,
            "REQUEST_METHOD": request.method,
            "RAW_URI": request.uri,
            "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
            "QUERY_STRING": request.query,
            "SERVER_PROTOCOL": f"HTTP/{major}.{minor}",
            "REMOTE_ADDR": self._address[0],
            "REMOTE_PORT": str(self._address[1]),
            LISTENER_MAC: self.mac,
        }
        for name, value in request.headers:
            key = name.replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ

    def _refuse(self, status: HTTPStatus) -> None:
        """Tell the guest why its connection ends; a request that is no HTTP never reaches the application."""
        body = f"{status} {status.phrase}\n"
        headers = ("Content-Type: text/plain; charset=UTF-8", f"Content-Length: {len(body)}")
        with contextlib.suppress(OSError):
            _send(self._sock, _head(f"{status} {status.phrase}", "close", headers) + body.encode())


class _Answer:
    """The answer to one request. The head is sent together with the first part of the body."""

    def __init__(self, sock: Any, request: Any, is_last: bool) -> None:
        self.is_begun = False
        self.is_last = is_last or request.should_close()
        self._sock = sock
        self._is_to_head = request.method == "HEAD"
        self._may_be_chunked = request.version >= (1, 1)
        self._is_chunked = False
        self._left: int | None = None  # bytes of the body that may still be sent; None: any number
        self._head = b""

    def start_response(
        self,
        status: str,
        headers: Iterable[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | None = None,
    ) -> Any:
        """The `start_response` of WSGI (PEP 3333)."""
        if exc_info and self.is_begun:
            raise exc_info[1]
        has_no_length = status.startswith(("1", "204"))
        lines = []
        length: int | None = None
        for name, value in headers:
            lowered = name.lower()
            if lowered in _HOP_BY_HOP or (has_no_length and lowered == "content-length"):
                continue
            if lowered == "content-length":
                length = int(value)
            lines.append(f"{name}: {value}")
        self._left = 0 if self._is_to_head or has_no_length or status.startswith("304") else length
        self._is_chunked = self._left is None and self._may_be_chunked
        if self._is_chunked:
            lines.append("Transfer-Encoding: chunked")
        self.is_last = self.is_last or (self._left is None and not self._is_chunked)
        self._head = _head(status, "close" if self.is_last else "keep-alive", lines)
        return self._write

    def send(self, parts: Iterable[bytes]) -> None:
        """Send the body, and the head before it."""
        for part in parts:
            self._write(part)
        if not self.is_begun:
            self._write(b"")
        if self._is_chunked:
            _send(self._sock, _LAST_CHUNK)
        if self._left:
            self.is_last = True  # only the end of the connection tells the guest that the body is too short

    def _write(self, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        elif self._is_chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if not self.is_begun:
            self.is_begun = True
            data = self._head + data
        if data:
            _send(self._sock, data)


def _send(sock: Any, data: bytes) -> None:
    """Send all data. gevent's `sendall` takes several times as long, and helps only when a buffer is full."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


def _head(status: str, connection: str, lines: Iterable[str]) -> bytes:
    """The head of an answer; raises ValueError for a header with a line end in it."""
    all_lines = [
        f"HTTP/1.1 {status}",
        f"Date: {_date(int(time.time()))}",
        f"Connection: {connection}",
        *lines,
    ]
    text = "\r\n".join(all_lines)
    if text.count("\n") != len(all_lines) - 1 or text.count("\r") != len(all_lines) - 1:
        raise ValueError("a header of an answer has a line end in it")
    return f"{text}\r\n\r\n".encode("latin-1")


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _log_defect(error: Exception) -> None:
    """Log an error of the upstream that shows after the head of an answer was sent, or a defect of mdmw."""
    if isinstance(error, MdmwError):
        LOG.warning("an answer could not be finished: %s", one_line(str(error)))
    else:
        LOG.error("a request could not be answered", exc_info=error)


def _sender(packet: bytes) -> str | None:
    """The source address of an Ethernet frame; None for a packet without an Ethernet header."""
    if len(packet) <= _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(packet)
    if packet[_ETHERNET.size] >> 4 != _IP_VERSIONS.get(kind):
        return None
    return source.hex(":") if any(source) else None
