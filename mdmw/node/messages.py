"""What the processes of a node may say to each other; nothing else passes a `Channel`."""

from typing import Any

from mdmw.node.channel import Shape, bind, flag, line, list_of, name, natural, numbers, scope, seconds

#: Keeper to the preloader: fork a worker, which is to speak over the descriptor.
TO_PRELOADER = {"fork": Shape(descriptors=1)}
#: The pipeline is loaded, or cannot be, and that is why.
FROM_PRELOADER = {"ready": Shape(), "refused": Shape({"why": line})}

#: Keeper to a worker: serve a listening socket, or no longer. `on_link`: no router is between its guests and
#: it. `alive`: it is to say so. `drain`: take no more connections, and end with the last there is; `stop`: do
#: not wait for idle ones.
TO_WORKER = {
    "add": Shape({"key": natural, "scope": scope, "on_link": flag}, descriptors=1),
    "remove": Shape({"key": natural}),
    "count": Shape(),
    "alive": Shape(),
    "drain": Shape(),
    "stop": Shape(),
}
MOST_COUNTS = 1000
#: A worker can ask for nothing. Counts are (key of a listener, connections so far, connections now).
FROM_WORKER = {
    "ready": Shape(),
    "alive": Shape(),
    "counts": Shape({"counts": list_of(numbers(3), MOST_COUNTS)}),
}


def _place(value: Any) -> bool:
    """`[namespace, bind, scope]`."""
    is_triple = isinstance(value, list) and len(value) == 3
    return is_triple and name(value[0]) and bind(value[1]) and scope(value[2])


def _path(value: Any) -> bool:
    """An absolute one."""
    return line(value) and value.startswith("/")


MOST_PLACES = 100
#: What must be listened to; it counts once `more` is false, as a whole.
_WANT = Shape({"listeners": list_of(_place, MOST_PLACES), "more": flag})
#: Where a plan is applied, as `mdmw.node.wanted.Places` has it.
_PLACES = {
    "state": _path,
    "neutron_dhcp": lambda value: value is None or _path(value),
    "firewall": lambda value: value in ("nftables", "iptables"),
}
#: The planner's first word is `places` or `refused`. Then for each look one of: a `plan`, in a sealed file in
#: memory; the `same` as before; `trouble`, which is why nobody knows.
FROM_PLANNER = {
    "places": Shape(_PLACES),
    "refused": Shape({"why": line}),
    "plan": Shape(descriptors=1),
    "same": Shape(),
    "trouble": Shape({"why": line}),
}
#: Keeper to the process that applies a plan; and back, in this order: what must be listened to, and
#: `problem` for each, then `report`. Or the plan is `refused`, and nothing was touched.
TO_CONVERGE = {"apply": Shape(_PLACES, descriptors=1)}
FROM_CONVERGE = {
    "listen": Shape({"listeners": list_of(_place, MOST_PLACES)}),
    "problem": Shape({"what": line}),
    "report": Shape({"actions": natural, "waiting": natural}),
    "refused": Shape({"why": line}),
}

#: To the control socket, whose callers are root. `attach` has a namespace, and a process with which it ends.
TO_CONTROL = {
    "want": _WANT,
    "attach": Shape({"name": name, "pid": natural, "scope": scope, "binds": list_of(bind, 4)}, descriptors=2),
    "detach": Shape({"name": name}),
    "list": Shape(),
    "status": Shape(),
    "take-over": Shape(),
    "taken-over": Shape(),
}
_LISTENER = {"namespace": name, "bind": bind, "scope": scope, "owner": name, "since": seconds}
#: Back from there. `again`: a new keeper is taking over, ask once more; `done` ends every other answer.
#: `planned` is when the plan was last known to be right, in seconds since 1970; 0 without one.
FROM_CONTROL = {
    "done": Shape(),
    "refused": Shape({"why": line}),
    "again": Shape(),
    "listener": Shape({**_LISTENER, "connections": natural, "open": natural}),
    "status": Shape(
        {
            "pid": natural,
            "since": seconds,
            "listeners": natural,
            "attached": natural,
            "workers": natural,
            "planned": seconds,
        }
    ),
    "problem": Shape({"what": line}),
    "socket": Shape(_LISTENER, descriptors=1),
    "attached": Shape({"name": name, "pid": natural}, descriptors=1),
    "want": _WANT,
}
