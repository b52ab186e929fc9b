"""Argument parser of the commands beside Lightning's own, and presets in the arguments of Lightning's."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from common.commands.errors import UsageError
from common.experiments.preset_files import find_config
from common.experiments.preset_layers import read_config
from common.naming.nearest import did_you_mean

CONFIG = ("-c", "--config")
KINDS = {"int": "an integer", "float": "a number"}


class Arguments(argparse.ArgumentParser):
    """``argparse`` for ``robust-diffusion COMMAND``. Errors are raised as `UsageError`."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"robust-diffusion {command}", description=description, allow_abbrev=False)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options. Raises `UsageError` for unknown, missing and misspelt arguments."""
        options, unknown = self.parse_known_args(list(arguments))
        if unknown:
            known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
            self.error(f"there is no argument {unknown[0]}.{did_you_mean(unknown[0].split('=')[0], known)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` with the reason, and the command that lists the options."""
        if found := re.fullmatch(r"argument ([^:]+): invalid (\w+) value: (.*)", message):
            option, kind, value = found.groups()
            message = f"{option} must be {KINDS.get(kind, kind)}; got {value}."
        raise UsageError(f"{message.rstrip('.')}.\n{self.prog} --help lists the arguments.".replace("?.", "?"))


def with_files(arguments: Sequence[str]) -> list[str]:
    """Lightning's arguments with files for the names of presets, and with its own ``--help`` for ``--help-all``.

    The files are read once here, so that mistakes in them are found before torch is imported. Raises errors of
    `find_config` and `read_config`.
    """
    replaced = []
    if joined := next((one for one in arguments if re.match(r"-c[^=]", one)), None):
        raise UsageError(f"there is no option {joined}. Write -c NAME or --config NAME.")
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, name = argument.partition("=")
        if before in CONFIG:
            replaced.append(_readable(argument))
        elif option in CONFIG and equals:
            replaced.append(f"{option}={_readable(name)}")
        else:
            replaced.append("--help" if argument == "--help-all" else argument)
    return replaced


def _readable(name: str) -> str:
    path = find_config(name)
    read_config(path)
    return str(path)
