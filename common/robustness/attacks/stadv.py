"""Spatially transformed adversarial images: the attack moves pixels instead of changing their values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss, check_counts, is_usable, per_image
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, by_name
from common.robustness.threats.norm_ball import Threat, require_threat
from common.robustness.threats.spatial import SpatialThreat

_SMOOTHNESS = 0.0025  # over eps


@dataclass(frozen=True)
class StAdv(Attack):
    """Adam on the flow f (2,H,W) that warps the image (Xiao et al., arXiv 1801.02612), clamped to the threat's bound:

        maximise  1/n sum_j loss(classifier(warp(image, f), noise_j), label) - smoothness roughness(f),  |f|_inf <= eps

    with n = eot fresh draws at every step. `roughness` is the paper's, the sum of distances between the flow vectors of
    neighbouring pixels. The defaults are those of DiffPure's experiment (arXiv 2205.07460), whose bound is 0.05: the
    margin without a ceiling, learning rate 0.01, 100 steps, 20 draws, ``smoothness`` 0.0025 / eps. The threat does not
    ask for smooth flows: ``smoothness=0`` finds more within the same bound.

    Returns, per image, the warped image with the highest EOT-mean loss, roughness apart: the very image on which it was
    measured, the last one included. Of a deterministic classifier a misclassified one, if there is any, comes before
    all others; it is asked once a step, whatever ``eot`` says, and with ``early_stop`` an image is done at its first.

    The first of ``restarts`` starts from the image itself, or with ``random_start`` as the others do: from a flow that
    is uniform within the bound. ``chunk`` limits the rows of a pass.
    """

    steps: int = 100
    learning_rate: float = 0.01
    eot: int = 20
    restarts: int = 1
    loss: str | Loss = "margin"
    smoothness: float | None = None
    random_start: bool = False
    early_stop: bool = False
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, eot=self.eot, restarts=self.restarts)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0; got {self.learning_rate}")
        if self.smoothness is not None and not self.smoothness >= 0:
            raise ValueError(f"smoothness must be at least 0, or None for {_SMOOTHNESS} / eps; got {self.smoothness}")
        self._loss_function()

    def check(self, threat: Threat) -> None:
        require_threat(threat, SpatialThreat, type(self).__name__)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        spatial, certain = require_threat(threat, SpatialThreat, type(self).__name__), not classifier.randomised
        oracle = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        progress = BestIterates(image, self.restarts * (self.steps + 1), self.early_stop and certain, certain)
        with attacking(classifier, image, label, noise):
            for restart in range(self.restarts):
                self._run(oracle, progress, spatial, image, restart)
        return progress.found()

    def _run(self, oracle: EOTLoss, progress: BestIterates, threat: SpatialThreat, image: Tensor, restart: int) -> None:
        flow = self._start(threat, image, oracle.noise, restart)
        adam = torch.optim.Adam([flow], lr=self.learning_rate, maximize=True)
        for step in range(self.steps + 1):
            rows = progress.active
            if not len(rows):
                break
            warped = threat.warp(image[rows], flow[rows])
            adv = warped.detach().clamp(0, 1)  # a mean of pixels, but for the last bit
            name = f"restart {restart} step {step}"
            answers = oracle(rows, adv, name, self._loss_function(), step < self.steps)
            progress.note(rows, adv, answers, oracle.eot)
            if answers.gradient is not None:
                living = is_usable(answers.gradient)
                progress.blind(rows, ~living)
                flow.grad = self._gradient(
                    threat, flow, warped, torch.where(per_image(living, adv), answers.gradient, 0.0)
                )
                adam.step()
                with torch.no_grad():
                    flow.clamp_(-threat.eps, threat.eps)

    def _start(self, threat: SpatialThreat, image: Tensor, noise: Noise, restart: int) -> Tensor:
        """(B,2,H,W)."""
        if restart or self.random_start:
            flow = threat.random_flow(image, noise.stream("start"), restart)
        else:
            flow = image.new_zeros(len(image), 2, *image.shape[-2:])
        return flow.requires_grad_()

    def _gradient(self, threat: SpatialThreat, flow: Tensor, warped: Tensor, gradient: Tensor) -> Tensor:
        """Of the objective in the flow, from that of the loss in the warped images: classifier and warp are chained."""
        smoothness = _SMOOTHNESS / threat.eps if self.smoothness is None else self.smoothness
        objective = (warped * gradient).sum() - smoothness * roughness(flow).sum()
        return torch.autograd.grad(objective, flow)[0]

    def _loss_function(self) -> Loss:
        return by_name(self.loss) if isinstance(self.loss, str) else self.loss


def roughness(flow: Tensor) -> Tensor:
    """``sum_p sum_q |f(p) - f(q)|_2`` over the pixels p and their up to four neighbours q: (B,2,H,W) -> (B,).

    Every pair counts twice. Xiao et al., arXiv 1801.02612, L_flow.
    """
    steps = (flow.diff(dim=2), flow.diff(dim=3))
    return 2 * sum((step.norm(dim=1).flatten(1).sum(1) for step in steps), start=flow.new_zeros(len(flow)))
