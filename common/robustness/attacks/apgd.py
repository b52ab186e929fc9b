"""Auto-PGD: projected gradient ascent with adaptive step sizes, on the EOT-mean loss."""

from dataclasses import dataclass, replace

from torch import Tensor

from common.checks.settings import check_count, check_flag, check_function, check_optional
from common.noise import Noise
from common.robustness.attacks.apgd_steps import APGDSteps, SparseAPGDSteps, shrinking_balls
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
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

    ``large_eps``, in L1 alone: each climb takes 30 % of its steps in the ball of 3 eps, 30 % in that of 2 eps and the
    rest in that of eps, each run from the best point of the one before (`shrinking_balls`).

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
    large_eps: bool = False

    threat_kind = ThreatModel

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, eot=self.eot, restarts=self.restarts)
        check_optional(check_count, "targets", self.targets)
        check_flag("early_stop", self.early_stop)
        check_flag("large_eps", self.large_eps)
        if not isinstance(self.loss, str):
            check_function("loss", self.loss, "a name of a loss, or a function of (logits, label)")
        if isinstance(self.loss, str) and self.loss not in _NAMED:
            raise ValueError(f"APGD's loss must be one of {', '.join(_NAMED)}; got {self.loss!r}")
        if self.targets is not None and self.loss not in TARGETED:
            names = ", ".join(TARGETED)
            raise ValueError(f"targets={self.targets} needs a targeted loss, one of {names}; got {self.loss!r}")

    def check(self, threat: Threat) -> None:
        super().check(threat)
        self._balls(threat)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        balls = self._balls(threat)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        rounds = self.restarts * (balls[-1][1] + 1)
        eot = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        with attacking(classifier, image, label, noise):
            if self.loss in TARGETED:
                clean = eot(image, margin, "clean", differentiate=False)
                targets: list[Tensor | None] = [*most_likely_classes(clean.logits, label, self.targets or _TARGETS)]
                best = BestIterates(image, len(targets) * rounds + 1, eot.deterministic, self.early_stop)
                best.update(best.active, image, clean)
            else:
                targets = [None]
                best = BestIterates(image, rounds, eot.deterministic, self.early_stop)
            best.resume(noise)
            for number, target in enumerate(targets):
                climb = _Climb(image, _NAMED[self.loss] if isinstance(self.loss, str) else self.loss, target, balls)
                for restart in range(self.restarts):
                    if len(best.begin(number * self.restarts + restart)):
                        climb(eot, best, f"target {number} restart {restart}")
                    best.end()
        return best.result()

    def _balls(self, threat: Threat) -> list[tuple[ThreatModel, int]]:
        """The balls of a climb, one after the other, and the steps in each."""
        ball = require_norm_ball(threat, type(self).__name__)
        if not self.large_eps:
            return [(ball, self.steps)]
        if ball.norm != 1:
            raise ValueError(f"large_eps is the schedule of APGD in L1; the threat is {threat}. Leave it out.")
        return shrinking_balls(ball, self.steps)


@dataclass(frozen=True)
class _Climb:
    """A climb of the ``loss`` (towards ``target``, (B,), if there is one): a run in each of the ``balls``, each from
    the best point of the run before, the first from a random point of the last, which is the threat's."""

    image: Tensor
    loss: Loss | TargetedLoss
    target: Tensor | None
    balls: list[tuple[ThreatModel, int]]

    def __call__(self, eot: EOTLoss, best: BestIterates, name: str) -> None:
        """Climb for the images that are not done."""
        rows = best.active
        image = self.image[rows]
        start = self.balls[-1][0].random_start(image, eot.noise.rows(rows).stream(f"{name} start"))
        for number, (ball, steps) in enumerate(self.balls):
            start = start if number == 0 else ball.project(image, start)
            if ball.norm == 1:
                iterate: APGDSteps = SparseAPGDSteps(ball, image, start, steps, continued=number > 0)
            else:
                iterate = APGDSteps(ball, image, start, steps)
            last = number == len(self.balls) - 1
            self._run(eot, best, iterate, name if last else f"{name} radius {number}", last)
            start = iterate.best

    def _run(self, eot: EOTLoss, best: BestIterates, iterate: APGDSteps, name: str, inside: bool) -> None:
        """All steps in one ball; its points are candidates if it lies ``inside`` the threat model."""
        rows = best.active
        for step in range(iterate.steps + 1):
            if not len(rows):
                return
            classes = None if self.target is None else self.target[rows]
            estimate = eot(iterate.x, self.loss, f"{name} step {step}", rows, step < iterate.steps, classes)
            ranked = estimate if classes is None else replace(estimate, loss=estimate.margin)
            if inside:
                going: Tensor | None = best.update(rows, iterate.x, ranked)
            else:
                best.count(rows, estimate)
                going = None
            if estimate.gradient is None:
                iterate.keep(estimate.loss)
            else:
                iterate.step(estimate.loss, usable(estimate.gradient))
            if going is not None and best.drops:
                rows = rows[going]
                iterate.select(going)
