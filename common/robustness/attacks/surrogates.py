"""Classifiers inside a defence whose adversarial images transfer to it."""

from collections.abc import Iterator

from torch import nn

from common.robustness.classifiers import Classifier
from common.robustness.protocols import SupportsSurrogate


def surrogates(classifier: Classifier) -> list[Classifier]:
    """Deterministic classifiers to search against in place of the defence.

    A deterministic classifier is its own. Of another one: those that its parts declare (`SupportsSurrogate`: φ of
    AGDM); if none does, the deterministic classifiers inside it, such as the one behind a purifier; of a classifier
    within a classifier the outer one. Empty if there are none.
    """
    if not classifier.randomised:
        return [classifier]
    declared = [part.surrogate() for part in classifier.modules() if isinstance(part, SupportsSurrogate)]
    return declared or list(_inside(classifier))


def _inside(module: nn.Module) -> Iterator[Classifier]:
    """The outermost deterministic classifiers below a module."""
    for part in module.children():
        if isinstance(part, Classifier) and not part.randomised:
            yield part
        else:
            yield from _inside(part)
