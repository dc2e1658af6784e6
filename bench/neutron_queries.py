"""How often Neutron is asked for ports: over REST by its own log, over RPC by a copy of each message."""

import contextlib
import json
from collections.abc import Callable, Iterator

import amqp
from cloud.cloud import Cloud

_EXCHANGE, _TOPIC = "neutron", "q-plugin"
_REST = '"GET /v2.0/ports'
_RPC = "get_ports"


@contextlib.contextmanager
def counted(cloud: Cloud) -> Iterator[Callable[[], int]]:
    """What is yielded says how many queries there were since."""
    log = cloud.state.log("neutron-api-access")
    before = log.stat().st_size
    with cloud.services.broker() as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        channel.queue_bind(queue, _EXCHANGE, _TOPIC)
        calls = 0

        def count() -> int:
            nonlocal calls
            calls += sum(method == _RPC for method in _methods(channel, queue))
            return calls + log.read_bytes()[before:].count(_REST.encode())

        yield count


def _methods(channel: amqp.Channel, queue: str) -> Iterator[str]:
    """Of all messages that have come; oslo.messaging packs JSON into JSON."""
    while message := channel.basic_get(queue, no_ack=True):
        yield json.loads(json.loads(message.body)["oslo.message"])["method"]
