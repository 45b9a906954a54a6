"""The grammar of the command line: commands, options that may stand anywhere, and what people type instead."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vla_cl import __version__
from vla_cl.cli.answers import Answer
from vla_cl.settings.hints import nearest
from vla_cl.settings.rules import expanded
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

Command = Callable[[argparse.Namespace], Answer]

EPILOG = """example: vla-cl train stream=metaworld_demo method=er

settings are KEY=VALUE, options begin with --, both in any order; a path needs quotes only for your shell
--json (with any command) prints one JSON document, of an error {"error": ..., "status": ...}; messages go to stderr
--debug (with any command) shows the traceback of an error
exit status: 0 done; 1 something failed (disk full, diverged, a goal missed); 2 the command cannot be done as given;
129, 130, 138, 140, 143 stopped by SIGHUP, Ctrl-C, SIGUSR1, SIGUSR2, SIGTERM: the same command continues
"""

_INSTEAD = {
    "resume": "vla-cl resume RUN continues a run with its own settings, and so does its train command",
    "continue": "vla-cl resume RUN continues a run with its own settings, and so does its train command",
    "eval": "vla-cl evaluate RUN",
    "test": "vla-cl evaluate RUN",
    "run": "vla-cl train method=er",
    "record": "vla-cl collect stream=metaworld_demo",
    "version": "vla-cl --version",
}


_OF_A_RUN = ("train", "collect", "check", "demo")
"""Commands whose settings are those of ``conf/config.yaml``."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(f"{message}; `{self.prog} --help` shows what it takes")

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401 - as in argparse
        """Refuse what is none of the choices, with the nearest one.

        Raises:
            ConfigurationError: It is none.
        """
        if action.choices is not None and value not in (known := [str(choice) for choice in action.choices]):
            name = "/".join(action.option_strings) or action.dest
            raise ConfigurationError(f"{name} {harmless(repr(value), 60)} is not known; {nearest(str(value), known)}")


def user_path(text: str) -> Path:
    """A path given as an argument, ``~`` expanded."""
    if not text:
        raise ConfigurationError("an empty path was given; give a file or a folder")
    return Path(expanded("the path", text))


def user_paths(text: str) -> list[Path]:
    """Paths given as one argument, with commas between them; one that has commas is quoted."""
    return [user_path(item.strip()) for item in next(csv.reader([text], skipinitialspace=True), [""])]


def user_location(text: str) -> str:
    """A path or a name given as an argument, ``~`` expanded."""
    return expanded("the policy", text) if text else str(user_path(text))


def options_first(arguments: Sequence[str], parser: Parser) -> list[str]:
    """The arguments of a command with its options in front, wherever they stood.

    Args:
        arguments: Behind the command's name.
        parser: The command's own.

    Raises:
        ConfigurationError: An option does not exist; a setting given as an option is shown as a setting.
    """
    known = parser._option_string_actions
    options, others = [], []
    rest = list(arguments)
    while rest:
        item = rest.pop(0)
        name, equals, value = item.partition("=")
        if item == "--":
            others += rest
            break
        if not item.startswith("-") or len(item) == 1:
            others.append(item)
        elif name in known:
            options.append(item)
            if known[name].nargs != 0 and not equals and rest:
                options.append(rest.pop(0))
        else:
            raise ConfigurationError(_no_option(name, value if equals else rest[0] if rest else "", parser, known))
    return [*options, *(["--", *others] if others else [])]


def _no_option(name: str, value: str, parser: Parser, known: Iterable[str]) -> str:
    if name in ("-m", "--multirun", "--sweep"):
        return (
            f"{name} is not there: train_seed=0,1,2 learns one seed after another; for other settings, a loop of the "
            'shell: for m in er ewc; do vla-cl train method="$m"; done'
        )
    key, command = name.lstrip("-").replace("-", "_") or "key", parser.prog.partition(" ")[2]
    takes_settings = any(action.dest == "overrides" for action in parser._actions)
    if takes_settings and not (value.startswith("-") and value[1:2].isalpha()):
        value = value if value and "=" not in value else "VALUE"
        if key in _INSTEAD:
            return f"{command} has no option {name}; {_INSTEAD[key]}"
        if command in _OF_A_RUN and key not in (settings := _known_settings()):
            return f"{command} has no option {name}, and there is no setting {key}; {nearest(key, settings)}"
        return f"{command} has no option {name}; a setting is given as {key}={value}"
    return f"{command} has no option {name}; {nearest(name, [item for item in known if item.startswith('--')])}"


def _known_settings() -> list[str]:
    from vla_cl.config.compose import known_settings

    return known_settings()


def new_parser() -> tuple[Parser, Callable[[str, Command, str, str], Parser], dict[str, Parser]]:
    """The program's parser, what adds a command to it, and the commands added so far."""
    parser = Parser(
        prog="vla-cl",
        description="One policy, skill after skill, nothing forgotten.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vla-cl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    known: dict[str, Parser] = {}

    def add(name: str, command: Command, text: str, example: str) -> Parser:
        sub = commands.add_parser(name, help=text, description=text, epilog=f"example: {example}", allow_abbrev=False)
        assert isinstance(sub, Parser)
        sub.add_argument("--json", action="store_true", help="for machines: one JSON document, messages on stderr")
        sub.set_defaults(command=command, name=name)
        known[name] = sub
        return sub

    return parser, add, known


def parse(arguments: Sequence[str], parser: Parser, commands: dict[str, Parser]) -> argparse.Namespace:
    """The command and its arguments; ``debug`` is true if ``--debug`` stood anywhere.

    Raises:
        ConfigurationError: There is no such command or option, or something is missing.
    """
    given = [item for item in arguments if item != "--debug"]
    if not given:
        raise ConfigurationError(
            "a command is missing, for example `vla-cl train method=er`; `vla-cl --help` lists them"
        )
    if given[0] == "help":
        given = [*(item for item in given[1:2] if item in commands), "--help"]
    name = given[0]
    if name in commands:
        options = parser.parse_args([name, *options_first(given[1:], commands[name])])
    elif name.startswith("-"):
        options = parser.parse_args(given)
    elif "=" in name:
        raise ConfigurationError(f"{name!r} is a setting, and the command before it is missing: vla-cl train {name}")
    else:
        hint = _INSTEAD.get(name) or nearest(name, list(commands))
        raise ConfigurationError(f"there is no command {name!r}; {hint}")
    options.debug = len(given) < len(arguments)
    return options


def add_conf(parser: argparse.ArgumentParser) -> None:
    """Folders of yaml files of one's own."""
    parser.add_argument(
        "--conf",
        type=user_path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of yaml files like vla_cl/conf",
    )


def add_overrides(parser: argparse.ArgumentParser, root: str = "config") -> None:
    """Hydra overrides behind the command's own arguments, of the settings in ``conf/<root>.yaml``."""
    add_conf(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help=f"settings that differ from conf/{root}.yaml (Hydra syntax)",
    )
