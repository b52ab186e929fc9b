"""AutoAttack by its authors' package ``autoattack``."""

from torch import Tensor

from common.checks.settings import check_count, check_one_of, check_optional
from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.global_state import restored_trace, seeded_generators
from common.robustness.attacks.known_noise import KnownNoise, attack_one_by_one
from common.robustness.attacks.library_model import LibraryModel, installed
from common.robustness.classifiers import Classifier
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.threat import Threat


class ReferenceAutoAttack(Attack):
    """AutoAttack (Croce & Hein, arXiv 2003.01690) by its authors' package ``autoattack``, with the settings of their
    versions "standard" and "rand", except that there are no more target classes than other classes.

    An image that it does not break is returned unperturbed. It is made for deterministic classifiers: of a randomised
    one it averages the gradient alone (rand: over 20 draws) and uses the last draw's loss and prediction for its step
    sizes and for success, and one misclassified draw ends an image's attack. Its results for purifiers are therefore
    weak under fresh draws, and often the clean image: report APGD beside it. Rows of noise, generators and ``queries``
    are as for `TorchAttacks`.

    Raises ``ImportError`` if the package is not installed.
    """

    chunk: int | None = None
    by_image = False
    threat_kind = ThreatModel

    def __init__(self, version: str = "standard", chunk: int | None = None) -> None:
        check_one_of("version", version, ("standard", "plus", "rand"))
        check_optional(check_count, "chunk", chunk)
        if not installed("autoattack"):
            raise ImportError("ReferenceAutoAttack needs the package autoattack of github.com/fra31/auto-attack")
        self.version, self.chunk = version, chunk

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        from autoattack import AutoAttack

        ball = require_norm_ball(threat, "AutoAttack")
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        if isinstance(classifier, KnownNoise) and len(image) > 1:
            return AttackResult(attack_one_by_one(self, classifier, image, label, threat, noise))
        seed = noise.stream(f"autoattack {noise.index[:1].tolist()}").seed % 2**32
        with attacking(classifier, image, label, noise), seeded_generators(seed), restored_trace():
            model = LibraryModel(classifier, noise, image.device)
            others = model(image[:1]).shape[1] - 1
            settings = {"norm": ball.name, "eps": ball.eps, "seed": seed, "version": self.version}
            attack = AutoAttack(model, **settings, device=image.device, verbose=False)
            for part in (attack.apgd_targeted, attack.fab):
                part.n_target_classes = min(part.n_target_classes, others)
            adv = attack.run_standard_evaluation(image.clone(), label.clone(), bs=self.chunk or len(image))
        adv = ball.project(image, adv.detach().to(image.dtype))
        return AttackResult(adv, queries=model.queries(len(image)))
