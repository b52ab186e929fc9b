"""Argument parser of the commands beside Lightning's own; its errors are short and name the nearest option."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from common.commands.errors import UsageError
from common.naming.nearest import did_you_mean

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
