"""DiffAttack: a loss that also drives the reverse process away from the forward one."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.checks.settings import check_count, check_not_negative, check_optional
from common.noise import Noise
from common.robustness.attacks.attack import AttackResult, is_empty
from common.robustness.attacks.wrapper import GradientWrapper, loss_of
from common.robustness.classifiers import Classifier, ClassifierWrapper
from common.robustness.losses import Loss
from common.robustness.padding import whole_batches
from common.robustness.protocols import RecordedTrajectory, SupportsRecording
from common.robustness.threats.threat import Threat
from common.robustness.voting import Voting


@dataclass(frozen=True)
class DiffAttack(GradientWrapper):
    """``attack`` with the loss of DiffAttack (Kang, Song and Li, arXiv 2311.16124),

        L = L_cls + weight L_dev,    L_dev = 1/n sum_k ||x_{t_k} - x'_{t_k}||^2 / D,

    L_cls being the attack's own loss, x_t the image diffused to t and x'_t the state of the reverse process at t, both
    in the model frame, D = C*H*W; t_1 .. t_n (n = ``times``; None: all) are nodes of the sampler's grid, drawn afresh
    at every step of the attack. The gradient of both terms goes through every step of the process, as exact as the
    purifier's.

    From the paper: the loss, the uniform choice of times, ``weight`` 1, and an outer loop of APGD (100 steps, EOT 20),
    once with the cross-entropy and once with DLR: two evaluators, ``DiffAttack(APGD(...))``, the worst of which counts.
    Our choices: x_t is diffused with the noise that starts the purification; n; points are ranked by L_cls alone, since
    L_dev is no success and its variance would dominate, so L_dev enters the gradient only; several purifications in a
    row enter with the mean of their L_dev; and the division by D. Without D, L_dev outgrows L_cls with the size of the
    image, and on 48 digits the attack was weaker than the one inside (76 % of the predictions correct instead of 66 %);
    with it no difference was measured. At weight 0 this is the attack itself.

    The purifiers are the modules of the classifier, at any depth, that satisfy `SupportsRecording`. Raises
    ``ValueError`` before the attack starts where there is none, or where its gradient does not reach the intermediate
    states (BPDA, adjoint).
    """

    weight: float = 1.0
    times: int | None = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("weight", self.weight, note="0 leaves the attack alone")
        check_optional(check_count, "times", self.times, note="None takes all times of the sampler")
        loss_of(self.attack)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        purifiers = [part for part in classifier.modules() if isinstance(part, SupportsRecording)]
        if not purifiers:
            raise ValueError(
                f"DiffAttack needs a diffusion purifier, whose states it records; {type(classifier).__name__} has none."
                " Use the attack inside alone"
            )
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        with ExitStack() as stack:
            stack.enter_context(whole_batches())
            trajectories = [stack.enter_context(part.recorded()) for part in purifiers]
            loss = _DeviationLoss(self, loss_of(self.attack), trajectories, _purifications(classifier))
            stack.callback(classifier.register_forward_pre_hook(loss.clear).remove)
            return self.attack.vary(loss=loss).search(classifier, image, label, threat, noise)


class _DeviationLoss:
    """The values of ``loss`` with the gradient of ``loss + weight L_dev``, from the purifications of the last call."""

    def __init__(
        self, attack: DiffAttack, loss: Loss, trajectories: Sequence[list[RecordedTrajectory]], purifications: int
    ) -> None:
        self.attack, self.loss, self.trajectories, self.purifications = attack, loss, trajectories, purifications

    def clear(self, classifier: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook: drop the trajectories of the call before."""
        for recorded in self.trajectories:
            recorded.clear()

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        values = self.loss(logits, label)
        deviations = [each.deviation(self.attack.times) for recorded in self.trajectories for each in recorded]
        if not deviations:  # no gradient is recorded
            return values
        rows = torch.stack(deviations).mean(0)[: len(values) * self.purifications]  # the rest are padding rows
        steering = self.attack.weight * rows.view(len(values), -1).mean(1)
        return values + (steering - steering.detach())


def _purifications(classifier: nn.Module) -> int:
    """Purifications of an image in one row of logits: the product of all votes."""
    if not isinstance(classifier, ClassifierWrapper):
        return 1
    return _purifications(classifier.classifier) * (classifier.draws if isinstance(classifier, Voting) else 1)
