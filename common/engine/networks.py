"""The networks inside a classifier, purifier or denoiser."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from common.naming.public_names import is_ours


@runtime_checkable
class HasConfig(Protocol):
    """Module with the ``config`` of its constructor, as exported networks have it."""

    config: Mapping[str, Any]


def networks(module: nn.Module) -> list[nn.Module]:
    """The outermost networks in ``module``: modules with a ``config``, and those of other packages.

    Classifiers, purifiers and denoisers of this project only arrange what networks compute. So do modules of other
    packages whose ``forward`` is not what is called: containers without one, and guidance, called by ``gradient``.
    """
    if not is_ours(type(module)) and not _arranges(module):
        return [module]
    if isinstance(module, HasConfig) and isinstance(module.config, Mapping):
        return [module]
    return [network for child in module.children() for network in networks(child)]


def _arranges(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return False
    called = "forward" in vars(module) or type(module).forward is not nn.Module.forward
    return any(module.children()) and (not called or callable(getattr(module, "gradient", None)))
