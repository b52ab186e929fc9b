"""The networks inside a classifier, purifier or denoiser."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn

from common.naming.public_names import is_ours


@runtime_checkable
class HasConfig(Protocol):
    """Module with the ``config`` of its constructor, as exported networks have it."""

    config: Mapping[str, Any]


def networks(module: nn.Module) -> list[nn.Module]:
    """The outermost networks in ``module``: modules with a ``config``, and those of other packages.

    Classifiers, purifiers and denoisers of this project only arrange what networks compute.
    """
    if not is_ours(type(module)) and not isinstance(module, nn.ModuleList | nn.ModuleDict):
        return [module]
    if isinstance(module, HasConfig) and isinstance(module.config, Mapping):
        return [module]
    return [network for child in module.children() for network in networks(child)]
