"""StAdv: spatially transformed adversarial images, made by an optimised flow of pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.checks.settings import check_flag, check_not_negative, check_number, check_optional, check_positive
from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss, check_counts, usable
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, as_loss
from common.robustness.threats.spatial import SpatialThreat
from common.robustness.threats.threat import Threat, require_threat

_SMOOTHNESS = 0.0025  # default smoothness, times 1 / eps
_SMOOTHEST = 1e3


@dataclass(frozen=True)
class StAdv(Attack):
    """Adam on the flow f (2,H,W) that warps the image (Xiao et al., arXiv 1801.02612), clamped to the threat's bound:

        maximise  1/n sum_j loss(classifier(warp(image, f), noise_j), label) - smoothness roughness(f),  |f|_inf <= eps

    with n = eot fresh draws at every step. `roughness` is the paper's, the sum of distances between the flow vectors of
    neighbouring pixels. The defaults are those of DiffPure's experiment (arXiv 2205.07460), whose bound is 0.05: the
    margin, not clipped, learning rate 0.01, 100 steps, 20 draws, ``smoothness`` 0.0025 / eps. The threat does not
    require smooth flows: ``smoothness=0`` is the stronger attack within the same bound.

    Returns, per image, the warped image with the highest EOT-mean loss, without the roughness, the last one included:
    the very image on which it was measured. Of a deterministic classifier a misclassified image, if there is any, ranks
    above all others. It is evaluated once per step; ``eot`` has no effect. With ``early_stop`` an image is done at its
    first.

    The first of ``restarts`` starts from the image itself, or with ``random_start`` like the others from a flow that
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

    threat_kind = SpatialThreat

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, eot=self.eot, restarts=self.restarts)
        check_positive("learning_rate", self.learning_rate)
        note = "Beyond it, float32 loses the loss beside the roughness"
        check_optional(check_number, "smoothness", self.smoothness, note, at_most=_SMOOTHEST)
        check_optional(check_not_negative, "smoothness", self.smoothness, note=f"None is {_SMOOTHNESS} / eps")
        check_flag("random_start", self.random_start)
        check_flag("early_stop", self.early_stop)
        as_loss(self.loss)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        spatial = require_threat(threat, SpatialThreat, type(self).__name__)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        eot = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        best = BestIterates(image, self.restarts * (self.steps + 1), eot.deterministic, self.early_stop)
        with attacking(classifier, image, label, noise):
            for restart in range(self.restarts):
                self._run(eot, best, spatial, image, restart)
        return best.result()

    def _run(self, eot: EOTLoss, best: BestIterates, threat: SpatialThreat, image: Tensor, restart: int) -> None:
        """All steps of one restart, for the images that are not done."""
        flow = self._start(threat, image, eot.noise, restart)
        adam = torch.optim.Adam([flow], lr=self.learning_rate, maximize=True)
        for step in range(self.steps + 1):
            rows = best.active
            if not len(rows):
                break
            warped = threat.warp(image[rows], flow[rows])
            adv = warped.detach().clamp(0, 1)  # a mean of pixels, except for the last bit
            estimate = eot(adv, as_loss(self.loss), f"restart {restart} step {step}", rows, step < self.steps)
            best.update(rows, adv, estimate)
            if estimate.gradient is not None:
                flow.grad = self._gradient(threat, flow, warped, usable(estimate.gradient))
                adam.step()
                with torch.no_grad():
                    flow.clamp_(-threat.eps, threat.eps)

    def _start(self, threat: SpatialThreat, image: Tensor, noise: Noise, restart: int) -> Tensor:
        """The first flow, (B,2,H,W)."""
        if restart or self.random_start:
            flow = threat.random_flow(image, noise.stream("start"), restart)
        else:
            flow = image.new_zeros(len(image), 2, *image.shape[-2:])
        return flow.requires_grad_()

    def _gradient(self, threat: SpatialThreat, flow: Tensor, warped: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the objective in the flow, from the loss's ``gradient`` in the warped images."""
        smoothness = _SMOOTHNESS / threat.eps if self.smoothness is None else self.smoothness
        objective = (warped * gradient).sum() - smoothness * roughness(flow).sum()
        return torch.autograd.grad(objective, flow)[0]


def roughness(flow: Tensor) -> Tensor:
    """``sum_p sum_q |f(p) - f(q)|_2`` over the pixels p and their up to four neighbours q: (B,2,H,W) -> (B,).

    Every pair counts twice. Xiao et al., arXiv 1801.02612, L_flow.
    """
    steps = (flow.diff(dim=2), flow.diff(dim=3))
    return 2 * sum((step.norm(dim=1).flatten(1).sum(1) for step in steps), start=flow.new_zeros(len(flow)))
