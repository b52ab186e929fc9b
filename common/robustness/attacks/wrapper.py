"""Attacks around an attack: they change its gradients, not its search."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, check_attack
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, as_loss
from common.robustness.threats.threat import Threat

W = TypeVar("W", bound="GradientWrapper")


@dataclass(frozen=True)
class GradientWrapper(Attack):
    """``attack`` with another gradient: of a changed classifier or of a changed loss. It must be a white-box attack."""

    attack: Attack

    def __post_init__(self) -> None:
        if not check_attack("attack", self.attack).white_box:
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
        """That of the attack inside."""
        return self.attack.chunk

    @property
    def by_image(self) -> bool:  # type: ignore[override]
        """That of the attack inside."""
        return self.attack.by_image

    def settings(self) -> Mapping[str, Any]:
        """The settings of both attacks."""
        return {**self.attack.settings(), **super().settings()}

    def vary(self: W, **changes: Any) -> W:
        """The same attack with other settings, of its own or of the attack inside."""
        own = {field.name for field in fields(self)} & changes.keys()
        inside = {name: value for name, value in changes.items() if name not in own}
        attack = self.attack.vary(**inside) if inside else self.attack
        return replace(self, **{"attack": attack, **{name: changes[name] for name in own}})


def loss_of(attack: Attack) -> Loss:
    """The loss that an attack maximises; ``ValueError`` if it has no setting for it."""
    loss = None if isinstance(attack, GradientWrapper) else attack.settings().get("loss")
    if loss is None:
        raise ValueError(f"the attack inside must have a loss, as PGD and APGD do; got {type(attack).__name__}")
    return as_loss(loss)
