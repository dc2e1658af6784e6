"""`mdmw-node`: the daemon of a network node. One daemon serves all network namespaces of the node."""

import argparse
import functools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from mdmw.cli.node_source import add_source, given
from mdmw.errors import ConfigError, MdmwError
from mdmw.identity import Identity, check_code, identity_of, spawn
from mdmw.node.keeper import Keeper, KeeperSettings
from mdmw.node.workers import PRELOADER, Start
from mdmw.observe.logs import log_to_stderr

PROGRAM = "mdmw-node"
RUN_DIRECTORY = "/run/mdmw"
_PLANNER = "mdmw.node.planner"
_CONVERGE = "mdmw.node.converge"
_MOST_WORKERS = 4
_FIRST_DESCRIPTOR = 3  # after standard input, output and error


def build_parser() -> argparse.ArgumentParser:
    """The parser; the reference of commands is made from it too."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve metadata in all network namespaces of this node. Root must start mdmw-node, "
        "but root only opens sockets: workers without privileges answer the guests. If another mdmw-node "
        "runs, the new one takes over its sockets, and the other one ends. SIGHUP makes mdmw-node read its "
        "configuration again.",
        epilog="Exit status: 0 ended by a signal, 2 wrong usage or configuration.",
    )
    parser.add_argument(
        "--ini",
        metavar="FILE",
        default="/etc/mdmw/api-paste.ini",
        help="paste file with the pipeline; default: %(default)s",
    )
    parser.add_argument(
        "--pipeline",
        metavar="NAME",
        default="proxy",
        help="pipeline that serves the guests, such as proxy or combined; default: %(default)s",
    )
    parser.add_argument(
        "--workers",
        type=_between(1, _MOST_WORKERS),
        default=min(2, os.cpu_count() or 1),
        metavar="N",
        help=f"number of processes that serve guests, at most {_MOST_WORKERS}; default: 2, or 1 on a host "
        "with one CPU",
    )
    parser.add_argument(
        "--connections",
        type=_between(10, 100_000),
        default=2000,
        metavar="N",
        help="largest number of open connections of each worker; default: %(default)s",
    )
    parser.add_argument("--user", default="mdmw", help="user that the workers run as; default: %(default)s")
    parser.add_argument(
        "--group",
        default="",
        help="group that the workers run as; default: the primary group of the user",
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        default=RUN_DIRECTORY,
        help="directory of the control socket node.sock and of the state of mdmw-node; default: %(default)s",
    )
    source = parser.add_argument_group(
        "plan",
        "With one of the options --file, --config-file and --set, mdmw-node plans what this host needs, "
        "applies the plan, and keeps the host as planned. Without these options, mdmw-node serves the "
        "namespaces that mdmw-haproxy attaches.",
    )
    add_source(source)
    source.add_argument(
        "--planner-user",
        metavar="USER",
        default="",
        help="user that the planner runs as; the planner reads the inventory file or asks Neutron; default: "
        "the user of --user",
    )
    source.add_argument(
        "--poll-interval",
        type=_between(1, 3600),
        default=10,
        metavar="SECONDS",
        help="seconds between two questions to Neutron; an inventory file is read when it changes; "
        "default: %(default)s",
    )
    source.add_argument(
        "--look-interval",
        type=_between(1, 3600),
        default=30,
        metavar="SECONDS",
        help="seconds between two checks that the host is as planned; default: %(default)s",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the keeper; the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        return Keeper(_settings(arguments)).run()
    except (MdmwError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2


def start_converge(channel: socket.socket) -> int:
    """Start a process that applies a plan once; its process id. Raises OSError.

    The process runs as root in a session of its own, so that the end of the keeper does not interrupt it.
    """
    command = [sys.executable, "-P", "-m", _CONVERGE, "--channel", str(_FIRST_DESCRIPTOR)]
    inherited = [(os.POSIX_SPAWN_DUP2, channel.fileno(), _FIRST_DESCRIPTOR)]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=inherited, setsid=True)


def _settings(arguments: argparse.Namespace) -> KeeperSettings:
    if os.geteuid():
        raise ConfigError("only root can enter network namespaces; start mdmw-node as root")
    identity = _unprivileged("--user", arguments.user, arguments.group, "guests talk to the workers")
    log_to_stderr()
    words = [
        *("--ini", str(Path(arguments.ini).absolute())),
        *("--pipeline", arguments.pipeline, "--connections", str(arguments.connections)),
    ]
    return KeeperSettings(
        start=functools.partial(_start, PRELOADER, words, identity),
        workers=arguments.workers,
        identity=identity,
        directory=Path(arguments.run_dir),
        environ=os.environ,
        start_planner=_planner(arguments),
        plan_source=f"file {arguments.file}" if arguments.file else "neutron",
        start_converge=start_converge,
        look_every=arguments.look_interval,
    )


def _planner(arguments: argparse.Namespace) -> Start | None:
    """Starts the planner; None when no option says what to plan from."""
    if not (arguments.file or arguments.config_file or arguments.set):
        return None
    user, group = arguments.planner_user or arguments.user, "" if arguments.planner_user else arguments.group
    identity = _unprivileged("--planner-user", user, group, "the planner talks to other services")
    source = given(
        argparse.Namespace(
            file=str(Path(arguments.file).absolute()) if arguments.file else None,
            config_file=[str(Path(name).absolute()) for name in arguments.config_file],
            set=arguments.set,
        )
    )
    words = ["--poll-interval", str(arguments.poll_interval), "--"]
    words += [f"{name}={value}" for name, value in source.items()]
    return functools.partial(_start, _PLANNER, words, identity)


def _unprivileged(option: str, user: str, group: str, why_not_root: str) -> Identity:
    """The identity that `option` gives to processes; raises `ConfigError`."""
    identity = identity_of(user, group)
    if identity.uid == 0:
        raise ConfigError(f"{option} root is not allowed, because {why_not_root}")
    check_code(identity)
    return identity


def _start(module: str, words: Sequence[str], identity: Identity, channel: socket.socket) -> int:
    """Start a module as a program without privileges; its process id. Raises OSError."""
    descriptor = channel.fileno()
    return spawn([sys.executable, "-m", module, "--channel", str(descriptor), *words], identity, descriptor)


def _between(least: int, most: int) -> "functools.partial[int]":
    return functools.partial(_number, least, most)


def _number(least: int, most: int, text: str) -> int:
    if not (text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{least} to {most} is allowed")
    return int(text)
