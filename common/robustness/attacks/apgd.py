"""Auto-PGD: projected gradient ascent with adaptive step sizes, on the EOT-mean loss."""

from dataclasses import dataclass, replace

from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.apgd_steps import APGDSteps, SparseAPGDSteps
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss, check_counts, most_likely_classes, usable
from common.robustness.classifiers import Classifier
from common.robustness.losses import LOSSES, TARGETED, Loss, TargetedLoss, margin
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.threat import Threat

_NAMED: dict[str, Loss | TargetedLoss] = {**LOSSES, **TARGETED}
_TARGETS = 9


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD in L-inf and L2 (Croce & Hein, arXiv 2003.01690) and in L1 (arXiv 2103.01208).

    The step size starts at 2 eps (L1: eps) and shrinks where the loss stops rising (`APGDSteps`, `SparseAPGDSteps`).
    Against a randomised classifier every loss is the mean over ``eot`` draws, fresh at every step and the same draws
    whose gradient is averaged; it decides step sizes, jumps to the best point, and which point is returned. (The
    reference implementation and torchattacks average the gradient alone and decide by the last draw.) Each of
    ``restarts`` begins at a random point of the ball.

    ``loss`` is a name in ``losses.LOSSES``, a function of (logits, label), or a name in ``losses.TARGETED``. A targeted
    loss is maximised once for each of the ``targets`` (9) most likely other classes of each image, by the EOT-mean
    logits of the clean image; with fewer classes, for all others.

    Returns, per image, the iterate with the highest EOT-mean loss; of a targeted attack, whose losses cannot be
    compared across targets, the one with the highest EOT-mean margin, the clean image included. Of a deterministic
    classifier a misclassified iterate, if there is any, ranks above all others; with ``early_stop`` an image is done at
    its first.

    Raises ``RuntimeError`` where the classifier gives no gradient at all, or a loss that is never finite, and
    ``ValueError`` for DLR with fewer than three classes, targeted DLR with fewer than four.
    """

    steps: int = 100
    eot: int = 1
    restarts: int = 1
    loss: str | Loss = "cross_entropy"
    targets: int | None = None
    early_stop: bool = False
    chunk: int | None = None

    threat_kind = ThreatModel

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, eot=self.eot, restarts=self.restarts, targets=self.targets or 1)
        if isinstance(self.loss, str) and self.loss not in _NAMED:
            raise ValueError(f"APGD's loss must be one of {', '.join(_NAMED)}; got {self.loss!r}")
        if self.targets is not None and self.loss not in TARGETED:
            names = ", ".join(TARGETED)
            raise ValueError(f"targets={self.targets} needs a targeted loss, one of {names}; got {self.loss!r}")

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, type(self).__name__)
        eot, rounds = EOTLoss(classifier, label, noise, self.eot, self.chunk), self.restarts * (self.steps + 1)
        with attacking(classifier, image, label, noise):
            if self.loss in TARGETED:
                clean = eot(image, margin, "clean", differentiate=False)
                targets: list[Tensor | None] = [*most_likely_classes(clean.logits, label, self.targets or _TARGETS)]
                best = BestIterates(image, len(targets) * rounds + 1, eot.deterministic, self.early_stop)
                best.update(best.active, image, clean)
            else:
                targets = [None]
                best = BestIterates(image, rounds, eot.deterministic, self.early_stop)
            for number, target in enumerate(targets):
                for restart in range(self.restarts):
                    rows, name = best.active, f"target {number} restart {restart}"
                    start = ball.random_start(image[rows], noise.rows(rows).stream(f"{name} start"))
                    iterate = (SparseAPGDSteps if ball.norm == 1 else APGDSteps)(ball, image[rows], start, self.steps)
                    self._run(eot, best, iterate, target, name)
        return best.result()

    def _run(self, eot: EOTLoss, best: BestIterates, iterate: APGDSteps, target: Tensor | None, name: str) -> None:
        """All steps of one restart against one target, for the images that are not done."""
        rows, loss = best.active, _NAMED[self.loss] if isinstance(self.loss, str) else self.loss
        for step in range(self.steps + 1):
            if not len(rows):
                return
            classes = None if target is None else target[rows]
            estimate = eot(iterate.x, loss, f"{name} step {step}", rows, step < self.steps, classes)
            ranked = estimate if target is None else replace(estimate, loss=estimate.margin)
            going = best.update(rows, iterate.x, ranked)
            if estimate.gradient is not None:
                iterate.step(estimate.loss, usable(estimate.gradient))
            rows = rows[going]
            iterate.select(going)
