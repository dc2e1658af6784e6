"""How often Neutron is asked for ports: over REST by its own log, over RPC by a copy of each message."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator

import amqp
from cloud.cloud import Cloud

_EXCHANGE, _TOPIC = "neutron", "q-plugin"
_REST = '"GET /v2.0/ports'
_RPC = "get_ports"
_PAUSE = 0.2  # seconds between two looks whether to end


@contextlib.contextmanager
def counted(cloud: Cloud) -> Iterator[Callable[[], int]]:
    """What is yielded says how many queries there were since."""
    log = cloud.state.log("neutron-api-access")
    before = log.stat().st_size
    with cloud.services.broker() as connection, _calls(connection) as calls:
        yield lambda: calls.count(_RPC) + log.read_bytes()[before:].count(_REST.encode())


@contextlib.contextmanager
def _calls(connection: amqp.Connection) -> Iterator[list[str]]:
    """The methods that are called, as they come: the copies expire with the patience of their callers."""
    methods: list[str] = []
    channel = connection.channel()
    queue = channel.queue_declare(exclusive=True).queue
    channel.queue_bind(queue, _EXCHANGE, _TOPIC)
    channel.basic_consume(queue, no_ack=True, callback=lambda message: methods.append(_method(message)))
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=_PAUSE)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield methods
    finally:
        ended.set()
        thread.join()


def _method(message: amqp.Message) -> str:
    """oslo.messaging packs JSON into JSON."""
    method: str = json.loads(json.loads(message.body)["oslo.message"])["method"]
    return method
