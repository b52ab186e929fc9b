"""Attacks around an attack: they change what it sees, never how it searches."""

from dataclasses import dataclass, is_dataclass, replace
from typing import TypeVar

from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, by_name
from common.robustness.threats.norm_ball import Threat

A = TypeVar("A", bound=Attack)


@dataclass(frozen=True)
class GradientWrapper(Attack):
    """``attack``, while something about the classifier or the loss is changed. It must be one that uses gradients."""

    attack: Attack

    def __post_init__(self) -> None:
        if not self.attack.white_box:
            raise ValueError(
                f"{type(self).__name__} changes a gradient, and {type(self.attack).__name__} uses none. "
                "Choose a white-box attack, such as PGD"
            )

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        return self.attack.search(classifier, image, label, threat, noise)

    def check(self, threat: Threat) -> None:
        self.attack.check(threat)

    @property
    def chunk(self) -> int | None:
        """How many rows the attack works on at a time; None for no limit."""
        return getattr(self.attack, "chunk", None)


def loss_of(attack: Attack) -> Loss:
    """The loss that an attack climbs; ``ValueError`` where it names none of (logits, label)."""
    loss = getattr(attack, "loss", None)
    if loss is None or not is_dataclass(attack):
        raise ValueError(f"the attack inside must have a loss, as PGD and APGD do; got {type(attack).__name__}")
    return by_name(loss) if isinstance(loss, str) else loss


def with_loss(attack: A, loss: Loss) -> A:
    """The same attack with another loss."""
    return replace(attack, loss=loss)  # type: ignore[type-var]
