"""Adversarial robustness with diffusion models: the package that users import.

    import robust_diffusion as rd

    result = rd.evaluate(network, images, labels, threat="Linf 8/255")

It holds every public class and function of the project under its short name (``rd.PGD`` is
``common.robustness.PGD``), imported on first use: the import of the package itself takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.naming.parameters import name_arguments_of
from common.naming.short_names import SHORT_NAMES, resolve_short_name

if TYPE_CHECKING:  # for editors and type checkers, which complete the names
    from agdm import *
    from common.api import *
    from common.checkpoints import *
    from common.data import *
    from common.diffusion import *
    from common.diffusion.networks import *
    from common.engine import *
    from common.exact import *
    from common.hub import *
    from common.networks import *
    from common.noise import *
    from common.records import *
    from common.robustness import *
    from common.tasks import *
    from diffpure import *
    from ndc import *

__version__ = "0.1.0"

__all__ = [*SHORT_NAMES]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # asked for by Python's own tools
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        room, _, attribute = resolve_short_name(name).rpartition(".")
    except ValueError as error:
        raise AttributeError(f"{__name__}: {error}") from None
    part = getattr(import_module(room), attribute)
    if isinstance(part, type):
        name_arguments_of(part)
    globals()[name] = part
    return part


def __dir__() -> list[str]:
    return sorted([*SHORT_NAMES, *(name for name in globals() if name.startswith("__"))])
