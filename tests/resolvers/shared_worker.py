"""One process of a group: threads look guests up in a cache of its own, all at once.

`python shared_worker.py DIRECTORY LOG THREADS GUESTS`; says `ready`, begins at the first line on
its input, and prints how many answers were right. Each query is a line in LOG.
"""

import os
import sys
import threading
import time

from cached_cloud import Cloud, source

from mdmw import options
from mdmw.resolvers.cache_options import OPTIONS, cached
from mdmw.resolvers.neutron import PortResolver


class Logged(Cloud):
    """Takes its time, and says so where every process can."""

    def __init__(self, log):
        super().__init__()
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND)

    def _query(self, kind, wanted):
        os.write(self._log, f"{kind}\n".encode())
        time.sleep(0.2)
        return super()._query(kind, wanted)


def main(directory, log, threads, guests):
    os.environ["MDMW_GROUP_DIR"] = directory
    cloud = Logged(log)
    expected = [cloud.put(number) for number in range(guests)]
    cache = cached(PortResolver(cloud), options.load("instance-resolve", OPTIONS, {}, {}))
    right = []

    def ask(first):
        right.extend(cache.resolve(source(n)) == expected[n] for n in range(first, guests, threads))

    running = [threading.Thread(target=ask, args=(n,)) for n in range(threads)]
    print("ready", flush=True)
    sys.stdin.readline()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(right.count(True), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
