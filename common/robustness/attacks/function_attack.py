"""A Python function as an attack."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from common.checks.deferred import looked_at_each
from common.checks.settings import check_function
from common.noise import Noise
from common.robustness.attacks.attack import Attack, attacking
from common.robustness.classifiers import Classifier
from common.robustness.protocols import DeclaresGradients
from common.robustness.threats.threat import Threat

_EXPECTED = "a function (classifier, image, label, threat, noise) -> images"


@dataclass(frozen=True)
class FunctionAttack(Attack):
    """A function of an attack's signature; one with an attribute ``white_box = False`` uses no gradients.

    It runs as other attacks do (`attacking`): with gradients, the classifier as deployed, without autocast. Errors of
    the classifier are raised where it is called, so that the function can handle them.
    """

    function: Callable[..., Tensor]

    def __post_init__(self) -> None:
        check_function("function", self.function, _EXPECTED)
        _check_signature(self.function)

    @property
    def white_box(self) -> bool:  # type: ignore[override]
        return self.function.white_box if isinstance(self.function, DeclaresGradients) else True

    def __call__(self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise) -> Tensor:
        if not len(image):
            return image.clone()
        with attacking(classifier, image, label, noise), looked_at_each():
            return self.function(classifier, image, label, threat, noise)


def _check_signature(function: Callable[..., Tensor]) -> None:
    """Raise ``ValueError`` unless the function takes an attack's five arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a function in C
        return
    try:
        signature.bind(*range(5))
    except TypeError:
        raise ValueError(f"function must be {_EXPECTED}; got one that takes {signature}") from None


def as_attack(attack: Attack | Callable[..., Tensor]) -> Attack:
    """An `Attack` as it is, a function as a `FunctionAttack`. ``ValueError`` for anything else."""
    if isinstance(attack, Attack):
        return attack
    if isinstance(attack, type) or not callable(attack):
        raise ValueError(
            "attack must be an Attack or a function (classifier, image, label, threat, noise) -> images; got a "
            f"{type(attack).__name__}. Use PGD(), for example"
        )
    return FunctionAttack(attack)
