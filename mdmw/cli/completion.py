"""`mdmw completion`: tab completion, made from the parser itself."""

import argparse
from typing import Any

_SCRIPT = """\
# mdmw completion bash > /etc/bash_completion.d/mdmw
# In zsh: autoload -U bashcompinit && bashcompinit && source <(mdmw completion bash)
_mdmw() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words
    case ${{COMP_WORDS[1]}} in
{cases}
        *) words="{commands}" ;;
    esac
    [ "$COMP_CWORD" -eq 1 ] && words="{commands}"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _mdmw mdmw
"""


def add_parser(commands: Any) -> None:
    """`mdmw completion bash`."""
    parser = commands.add_parser(
        "completion",
        help="print a script for tab completion",
        description="Print a completion script for bash, which zsh can read too.",
    )
    parser.add_argument("shell", choices=["bash"])
    parser.set_defaults(run=run)


def run(_arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the script."""
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    cases = [f'        {name}) words="{" ".join(_words(command))}" ;;' for name, command in commands.items()]
    print(_SCRIPT.format(cases="\n".join(cases), commands=" ".join(commands)), end="")
    return 0


def _words(command: argparse.ArgumentParser) -> list[str]:
    words = []
    for action in command._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        words += [str(choice) for choice in action.choices or ()]
    return words
