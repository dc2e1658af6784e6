"""The preloader: loads a pipeline once, and forks workers that have the pipeline already.

The keeper starts this program as the user of the workers, without privileges. The program ends with the
keeper; its workers do not.
"""

import argparse
import gc
import os
import signal
import socket
import sys
from functools import partial

from mdmw.errors import ConfigError
from mdmw.identity import drop_all_privileges
from mdmw.node.channel import TO_PRELOADER, Channel, Ended, as_line

_Socket = socket.socket  # not gevent's: the preloader has no greenlets, and waits in the kernel


def main() -> int:
    """Load the pipeline, report to the keeper, and fork workers until the keeper has ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--ini", required=True)
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--connections", type=int, required=True)
    arguments = parser.parse_args()
    channel = Channel(_Socket(fileno=arguments.channel), TO_PRELOADER)

    from gevent import monkey

    # Before any module is imported that may wait. Not `os`: this process must fork and close at once.
    monkey.patch_all(os=False, signal=False, subprocess=False)

    import gevent

    from mdmw.node.worker import Worker, shipped_config
    from mdmw.observe.logs import log_to_stderr
    from mdmw.wsgi import pipelines
    from mdmw.wsgi.process import by_hand, start_answering

    log_to_stderr()
    config = shipped_config()
    try:
        application = pipelines.load(arguments.pipeline, arguments.ini)
    except ConfigError as error:
        channel.send("refused", why=as_line(str(error)))
        return 2
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the keeper notices when a worker has ended
    drop_all_privileges()
    gc.collect()
    gc.freeze()  # workers share the memory of all objects so far, as long as no worker writes to them
    try:
        channel.send("ready")
    except BrokenPipeError:  # the keeper has a newer preloader already
        return 0
    while True:
        try:
            message = channel.receive()
        except Ended:
            return 0
        if os.fork() == 0:
            break
        os.close(message.descriptors[0])
    gevent.reinit()
    channel.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sock = socket.socket(fileno=message.descriptors[0])
    start_answering(
        application, partial(by_hand, "mdmw-node reloads its workers itself: systemctl reload mdmw-node")
    )
    Worker(application, config, sock, arguments.connections).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
