"""Auto-PGD: projected gradient ascent that sets its own step sizes, on the EOT-mean loss."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.apgd_steps import APGDSteps, SparseAPGDSteps
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss, check_counts, is_usable, most_likely_classes, per_image
from common.robustness.classifiers import Classifier
from common.robustness.losses import LOSSES, TARGETED, Loss, TargetedLoss, margin
from common.robustness.threats.norm_ball import Threat, require_norm_ball

_NAMED: dict[str, Loss | TargetedLoss] = {**LOSSES, **TARGETED}
_TARGETS = 9


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD in L-inf and L2 (Croce & Hein, arXiv 2003.01690) and in L1 (arXiv 2103.01208).

    There is no step size to choose: it starts at 2 eps (L1: eps) and shrinks where the loss stops rising. Against a
    randomised classifier every loss is the mean over ``eot`` draws, fresh ones at every step and the very ones whose
    gradient is averaged; it decides step sizes, jumps to the best point, and which point is returned. (The reference
    implementation and torchattacks average the gradient alone and decide by the last draw.) Each of ``restarts`` begins
    at a random point of the ball.

    ``loss`` is a name in ``losses.LOSSES``, a function of (logits, label), or a name in ``losses.TARGETED``. A targeted
    loss is climbed once for each of the ``targets`` (9) most likely other classes, each image's own, by the EOT-mean
    logits of the clean image; with fewer classes, for all others.

    Returns, per image, the iterate with the highest EOT-mean loss; of a targeted attack, whose losses cannot be
    compared across targets, the one with the highest EOT-mean margin, the clean image included. Of a deterministic
    classifier a misclassified iterate, if there is any, comes before all others; with ``early_stop`` an image is done
    at its first.

    Raises ``RuntimeError`` where the classifier gives no gradient at all, or a loss that is never finite, and
    ``ValueError`` where DLR finds fewer than three classes, targeted DLR fewer than four.
    """

    steps: int = 100
    eot: int = 1
    restarts: int = 1
    loss: str | Loss = "cross_entropy"
    targets: int | None = None
    early_stop: bool = False
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, eot=self.eot, restarts=self.restarts, targets=self.targets or 1)
        if isinstance(self.loss, str) and self.loss not in _NAMED:
            raise ValueError(f"APGD's loss must be one of {', '.join(_NAMED)}; got {self.loss!r}")
        if self.targets is not None and self.loss not in TARGETED:
            names = ", ".join(TARGETED)
            raise ValueError(f"targets={self.targets} needs a targeted loss, one of {names}; got {self.loss!r}")

    def check(self, threat: Threat) -> None:
        require_norm_ball(threat, "APGD")

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, "APGD")
        certain = not classifier.randomised
        oracle = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        with attacking(classifier, image, label, noise):
            clean = (
                oracle(torch.arange(len(image), device=image.device), image, "clean", margin)
                if self._targeted
                else None
            )
            targets = [None] if clean is None else most_likely_classes(clean.logits, label, self.targets or _TARGETS)
            length = len(targets) * self.restarts * (self.steps + 1) + (clean is not None)
            progress = BestIterates(image, length, self.early_stop and certain, certain)
            if clean is not None:
                progress.note(progress.active, image, clean, oracle.eot)
            for number, target in enumerate(targets):
                for restart in range(self.restarts):
                    rows, name = progress.active, f"target {number} restart {restart}"
                    start = ball.random_start(image[rows], noise.rows(rows).stream(f"{name} start"))
                    climb = (SparseAPGDSteps if ball.norm == 1 else APGDSteps)(ball, image[rows], start, self.steps)
                    self._run(oracle, progress, climb, target, name)
        return progress.found()

    @property
    def _targeted(self) -> bool:
        return self.loss in TARGETED

    def _run(self, oracle: EOTLoss, progress: BestIterates, climb: APGDSteps, target: Tensor | None, name: str) -> None:
        """All steps of one restart against one target, with the images that are not done."""
        rows = progress.active
        for step in range(self.steps + 1):
            if not len(rows):
                return
            goal = None if target is None else target[rows]
            answers = oracle(rows, climb.x, f"{name} step {step}", self._loss_function(), step < self.steps, goal)
            ranked = answers if target is None else replace(answers, loss=answers.margin)
            going = progress.note(rows, climb.x, ranked, oracle.eot)
            if answers.gradient is not None:
                living = is_usable(answers.gradient)
                progress.blind(rows, ~living)
                climb.see(answers.loss, torch.where(per_image(living, climb.x), answers.gradient, 0.0))
            rows = rows[going]
            climb.keep(going)

    def _loss_function(self) -> Loss | TargetedLoss:
        return _NAMED[self.loss] if isinstance(self.loss, str) else self.loss
