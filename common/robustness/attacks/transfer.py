"""Transfer attack: adversarial images of one classifier, evaluated on another."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from common.checks.settings import check_part
from common.noise import Noise
from common.robustness.attacks.attack import Attack, check_attack, is_empty
from common.robustness.classifiers import Classifier
from common.robustness.threats.threat import Threat


@dataclass(frozen=True)
class Transfer(Attack):
    """The adversarial images of ``attack`` against ``source``, for any classifier under test.

    A check on every white-box number: where the transfer attack is stronger, the white-box attack missed existing
    adversarial images, and its robust accuracy is too high. Sources worth trying are the undefended classifier and, for
    AGDM, the guidance network φ.
    """

    source: Classifier
    attack: Attack
    white_box = False

    def __post_init__(self) -> None:
        check_part("source", self.source, Classifier)
        check_attack("attack", self.attack)

    def check(self, threat: Threat) -> None:
        self.attack.check(threat)

    @property
    def by_image(self) -> bool:  # type: ignore[override]
        """That of the attack on the source."""
        return self.attack.by_image

    def settings(self) -> Mapping[str, Any]:
        """The settings of the attack on the source."""
        return self.attack.settings()

    def vary(self, **changes: Any) -> "Transfer":
        """The same transfer of the attack with other settings."""
        return replace(self, attack=self.attack.vary(**changes))

    def __call__(self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise) -> Tensor:
        if is_empty(image, label, noise):
            return image.clone()
        source = self.source.freeze().to(image.device)
        return self.attack(source, image, label, threat, noise)
