"""A cloud for the tests of the cache: ports that come and go, queries that are counted, held or refused."""

import threading
from collections import Counter

from mdmw.errors import Unavailable
from mdmw.records import Instance, Scope, Source
from mdmw.resolvers.caching import CacheLimits, Caching
from mdmw.resolvers.combined import ChainResolver
from mdmw.resolvers.contract import ROUTER_INTERFACE_OWNERS, Port
from mdmw.resolvers.neutron import PortResolver

PATIENCE = 20.0
PROJECT = "project"
BLUE, GREEN = Scope("network", "blue"), Scope("network", "green")
ROUTER = Scope("router", "router")


class Clock:
    """Time that passes when the test says so; no two looks at it are the same."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        self.now += 1e-6
        return self.now

    def pass_(self, seconds):
        self.now += seconds


class Cloud:
    """`PortQueries` over a dict of ports."""

    def __init__(self, ports=()):
        self.ports = {port.id: port for port in ports}
        self.queries = Counter()
        self.down = False
        self.too_many = False
        self.inside = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def put(self, number, scope=BLUE, device=None, address=None):
        """A guest's port; its MAC is `mac(number)`."""
        device, address = device or f"instance-{number}", address or f"10.0.{number >> 8}.{number & 255}"
        port = Port(
            f"port-{number}", scope.id, mac(number), device, "compute:nova", PROJECT, ((address, "s"),)
        )
        self.ports[port.id] = port
        return Instance(device, PROJECT, port.id)

    def remove(self, number):
        del self.ports[f"port-{number}"]

    def router_interfaces(self, router_id):
        return self._query(
            "router", lambda p: p.device_id == router_id and p.device_owner in ROUTER_INTERFACE_OWNERS
        )

    def by_address(self, networks, address):
        return self._query("one", lambda p: p.network_id in networks and address in dict(p.fixed_ips))

    def by_mac(self, networks, mac):
        return self._query("one", lambda p: p.network_id in networks and p.mac == mac)

    def everything(self, networks):
        ports = self._query("all", lambda p: p.network_id in networks)
        return None if self.too_many else ports

    def _query(self, kind, wanted):
        self.queries[kind] += 1
        self.inside.release()
        assert self.gate.wait(PATIENCE)
        if self.down:
            raise Unavailable("Neutron is down", retry_after=3)
        return [port for port in list(self.ports.values()) if wanted(port)]


def mac(number):
    return f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}"


def source(number, scope=BLUE, seen=False):
    """The guest of `Cloud.put(number)`, with its MAC if it was `seen`."""
    return Source(f"10.0.{number >> 8}.{number & 255}", scope, mac(number) if seen else None)


class AlonePorts:
    """A resolver without snapshots."""

    contract_version = 1
    options = ()

    def __init__(self, cloud):
        self._resolver = PortResolver(cloud)

    def resolve(self, source, *, fresh=False):
        return self._resolver.resolve(source)


class ChainOf(ChainResolver):
    """A chain of resolvers that have no names."""

    def __init__(self, *members):
        self._members = members


def cache(cloud, clock=None, prefetching=True, limits=None, **more):
    """`Caching` over a cloud."""
    resolver = PortResolver(cloud) if prefetching else AlonePorts(cloud)
    return Caching(resolver, limits or CacheLimits(idle=2.0), clock=clock or Clock(), **more)


def at_once(calls):
    """The results of calls from a thread each; an exception is a result."""
    results = [None] * len(calls)

    def run(place, call):
        try:
            results[place] = call()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(n, call), daemon=True) for n, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    return Calls(threads, results)


class Calls:
    """Calls under way."""

    def __init__(self, threads, results):
        self._threads = threads
        self._results = results

    def join(self):
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return self._results
