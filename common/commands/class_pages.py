"""``robust-diffusion test --help DiffPure``: the settings and the description of one class or function."""

import inspect
import re
from pkgutil import resolve_name

from common.commands.errors import UsageError
from common.naming.parameters import parameters
from common.naming.short_names import SHORT_NAMES, resolve_short_name


def class_page(name: str) -> str:
    """Name, settings with types and defaults, and docstring of a class or function.

    Raises `UsageError` with the nearest names for an unknown one.
    """
    try:
        path = SHORT_NAMES.get(name) or (name if "." in name else resolve_short_name(name))
        target = resolve_name(path)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{name} cannot be imported ({error}). A class of your own is FILE.NAME, in this folder."
        ) from error
    lines = [f"  {_spelled(parameter)}" for parameter in parameters(target).values()]
    return "\n".join(
        [f"{name} ({path})", "", "Settings (init_args):", *lines, "", inspect.getdoc(target) or ""]
    ).rstrip()


def _spelled(parameter: inspect.Parameter) -> str:
    return re.sub(r"\b(?:\w+\.)+([A-Za-z]\w*)", r"\1", str(parameter))
