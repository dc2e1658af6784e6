"""`mdmw-node`: the daemon of a network node, one for all its namespaces."""

import argparse
import functools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from mdmw.cli.node import add_source
from mdmw.errors import ConfigError, MdmwError
from mdmw.identity import Identity, check_code, identity_of, spawn
from mdmw.node.crew import PRELOADER, Start
from mdmw.node.keeper import Keeper, Settings
from mdmw.observe.logs import log_to_stderr

PROGRAM = "mdmw-node"
_PLANNER = "mdmw.cli.node_planner"
_CONVERGE = "mdmw.cli.node_converge"
RUN_DIRECTORY = "/run/mdmw"
_MOST_WORKERS = 4
_FIRST = 3  # descriptor after the standard ones


def build_parser() -> argparse.ArgumentParser:
    """The parser; the CLI reference is made from it too."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve metadata in all network namespaces of this node. Needs root, which only opens "
        "sockets; requests are answered by workers without privileges. When another is running, this one "
        "takes over from it. SIGHUP reads the configuration again.",
        epilog="Exit status: 0 ended by a signal, 2 wrong usage or configuration.",
    )
    parser.add_argument(
        "--ini", metavar="FILE", default="/etc/mdmw/api-paste.ini", help="default: %(default)s"
    )
    parser.add_argument(
        "--pipeline",
        metavar="NAME",
        default="proxy",
        help="proxy, combined, or another; default: %(default)s",
    )
    parser.add_argument(
        "--workers",
        type=_between(1, _MOST_WORKERS),
        default=min(2, os.cpu_count() or 1),
        metavar="N",
        help=f"processes that serve guests, at most {_MOST_WORKERS}; default: 2, or 1 with one CPU",
    )
    parser.add_argument(
        "--connections",
        type=_between(10, 100_000),
        default=2000,
        metavar="N",
        help="connections of each worker; default: %(default)s",
    )
    parser.add_argument("--user", default="mdmw", help="user of the workers; default: %(default)s")
    parser.add_argument("--group", default="", help="group of the workers; default: the user's own")
    parser.add_argument(
        "--run-dir", metavar="DIR", default=RUN_DIRECTORY, help="for node.sock; default: %(default)s"
    )
    source = parser.add_argument_group(
        "plan",
        "With one of these it finds out itself what this host needs, makes it so, and looks after it. "
        "Without them it serves what mdmw-haproxy attaches.",
    )
    add_source(source)
    source.add_argument(
        "--planner-user", metavar="USER", default="", help="who reads the file or Neutron; default: as --user"
    )
    for name, default, text in (
        (
            "--poll-interval",
            10,
            "between two questions to Neutron; a file is read when it changes",
        ),
        ("--look-interval", 30, "between two looks at whether all is as planned"),
    ):
        source.add_argument(
            name,
            type=_between(1, 3600),
            default=default,
            metavar="SECONDS",
            help=f"{text}; default: %(default)s",
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the keeper."""
    arguments = build_parser().parse_args(argv)
    try:
        return Keeper(_settings(arguments)).run()
    except MdmwError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2


def _settings(arguments: argparse.Namespace) -> Settings:
    if os.geteuid():
        raise ConfigError("only root can enter namespaces")
    identity = _unprivileged("--user", arguments.user, arguments.group, "guests would talk to root")
    log_to_stderr()
    command = [
        *(sys.executable, "-m", PRELOADER, "--ini", str(Path(arguments.ini).absolute())),
        *("--pipeline", arguments.pipeline, "--connections", str(arguments.connections), "--channel"),
    ]
    return Settings(
        start=functools.partial(_start, command, identity),
        workers=arguments.workers,
        identity=identity,
        directory=Path(arguments.run_dir),
        environ=os.environ,
        plan=_planner(arguments),
        plan_source=f"file {arguments.file}" if arguments.file else "neutron",
        converge=start_converge,
        look_every=arguments.look_interval,
    )


def _planner(arguments: argparse.Namespace) -> Start | None:
    """None when nothing says what to plan from."""
    source = [f"--set={word}" for word in arguments.set]
    source += [f"--config-file={Path(name).absolute()}" for name in arguments.config_file]
    source += [f"--file={Path(arguments.file).absolute()}"] if arguments.file else []
    if not source:
        return None
    user, group = arguments.planner_user or arguments.user, "" if arguments.planner_user else arguments.group
    identity = _unprivileged("--planner-user", user, group, "it talks to others")
    interval = ["--poll-interval", str(arguments.poll_interval), "--channel"]
    command = [sys.executable, "-m", _PLANNER, *source, *interval]
    return functools.partial(_start, command, identity)


def _unprivileged(option: str, user: str, group: str, danger: str) -> Identity:
    """The user and group of processes that `option` is for; raises `ConfigError`."""
    identity = identity_of(user, group)
    if identity.uid == 0:
        raise ConfigError(f"{option} root is not allowed; {danger}")
    check_code(identity)
    return identity


def _start(command: list[str], identity: Identity, channel: socket.socket) -> int:
    return spawn([*command, str(channel.fileno())], identity, channel.fileno())


def start_converge(channel: socket.socket) -> int:
    """As root, in a session of its own: what it does is done to its end."""
    command = [sys.executable, "-P", "-m", _CONVERGE, "--channel", str(_FIRST)]
    inherited = [(os.POSIX_SPAWN_DUP2, channel.fileno(), _FIRST)]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=inherited, setsid=True)


def _between(least: int, most: int) -> "functools.partial[int]":
    return functools.partial(_number, least, most)


def _number(least: int, most: int, text: str) -> int:
    if not (text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{least} to {most} is allowed")
    return int(text)
