"""Attacks that never ask the defence: adversarial images of one classifier, shown to another."""

from dataclasses import dataclass

from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.attack import Attack
from common.robustness.classifiers import Classifier
from common.robustness.threats.norm_ball import Threat


@dataclass(frozen=True)
class Transfer(Attack):
    """The adversarial images that ``attack`` finds for ``source``, whatever classifier is under test.

    A check on every white-box number: where the transfer is the stronger attack, the white-box one did not find what
    exists, and its robust accuracy is too high. Sources worth trying are the undefended classifier and, for AGDM, φ.
    """

    source: Classifier
    attack: Attack
    white_box = False

    def check(self, threat: Threat) -> None:
        self.attack.check(threat)

    def __call__(self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise) -> Tensor:
        source = self.source.freeze().to(image.device)
        return self.attack(source, image, label, threat, noise)
