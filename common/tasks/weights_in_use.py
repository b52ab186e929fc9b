"""Weights that were hashed are the weights in use when rows are written."""

from collections.abc import Mapping

from torch import nn

from common.records.tensors import checksums


class WeightsInUse:
    """Checksums of the weights of all modules of a run, by their place in it, taken when the weights were hashed."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._expected = {place: checksums(module) for place, module in modules.items()}

    def check(self) -> None:
        """Raise ``ValueError`` if a weight has changed, with the names of the part and of the weight."""
        for place, module in self._modules.items():
            expected, found = self._expected[place], checksums(module)
            changed = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            if changed:
                raise ValueError(
                    f"{place} no longer has the weights that identify the records: {', '.join(changed[:4])} changed "
                    "during the test, so its numbers depend on the order of the images. Let no part of a defence or of "
                    "an attack, and no callback, write into weights"
                )
