"""The networks inside a classifier, purifier or denoiser."""

from collections.abc import Mapping

from torch import nn

from common.naming.public_names import is_ours


def networks(module: nn.Module) -> list[nn.Module]:
    """The outermost networks in ``module``: modules with a ``config``, and those of other packages.

    Classifiers, purifiers and denoisers of this project only arrange what networks compute.
    """
    if not is_ours(type(module)) and not isinstance(module, nn.ModuleList | nn.ModuleDict):
        return [module]
    if isinstance(getattr(module, "config", None), Mapping):
        return [module]
    return [network for child in module.children() for network in networks(child)]
