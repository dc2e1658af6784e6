"""Which tests follow each other in one process, when pytest runs several (pytest -n 4)."""

import re

from xdist.scheduler import LoadScopeScheduling

#: Groups of tests that share what takes seconds to make: a server, a healthy node, a RabbitMQ.
_SHARING = (
    re.compile(r"tests/servers/.*\[(\w+(?:-gevent)?-(?:tcp|unix)-(?:proxy|agent|combined))\b"),
    re.compile(r"(tests/doctor)/"),
    re.compile(r"(tests/resolvers)/test_(?:auto|neutron_rpc\w*|state_report)\.py"),
)


class Groups(LoadScopeScheduling):
    """A process that is idle gets the next group; a group is what `_SHARING` says, or else a file."""

    def _split_scope(self, nodeid: str) -> str:
        shared = filter(None, (pattern.match(nodeid) for pattern in _SHARING))
        return next((found[1] for found in shared), nodeid.partition("::")[0])
