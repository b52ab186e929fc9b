"""DiffAttack's loss: an attack that also drives the reverse process away from the forward one."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.attacks.attack import AttackResult
from common.robustness.attacks.wrapper import GradientWrapper, loss_of, with_loss
from common.robustness.classifiers import Classifier, Purified, Voting
from common.robustness.losses import Loss
from common.robustness.protocols import RecordedTrajectory, SupportsRecording
from common.robustness.threats.norm_ball import Threat


@dataclass(frozen=True)
class DiffAttack(GradientWrapper):
    """``attack`` climbing the loss of DiffAttack (Kang, Song and Li, arXiv 2311.16124),

        L = L_cls + weight L_dev,    L_dev = 1/n sum_k ||x_{t_k} - x'_{t_k}||^2 / D,

    L_cls being the attack's own loss, x_t the image diffused to t and x'_t the reverse process when it comes by t, both
    in the model frame, D = C*H*W; t_1 .. t_n (n = ``times``; None: all) are nodes of the sampler's grid, drawn anew at
    every step of the attack. The gradient of both goes through every step of the process, as exact as the purifier's.

    Of the paper: the loss, the uniform choice of times, ``weight`` 1, and an outer loop of APGD (100 steps, EOT 20),
    once with the cross-entropy and once with DLR: two evaluators, ``DiffAttack(APGD(...))``, the worst of which counts.
    Our reading: x_t is diffused with the noise that starts the purification; n; points are ranked by L_cls alone, L_dev
    only steering the gradient, for it is no success, and its draws would drown one; several purifications in a row
    count with the mean of their L_dev; and D. Without it L_dev outgrows L_cls with the size of the image, and on 48
    digits the attack was weaker than the one inside (76 % of the answers right instead of 66 %); with it no difference
    was seen. At weight 0 this is the attack itself.

    The purifiers are the modules of the classifier, at any depth, that satisfy `SupportsRecording`. Raises
    ``ValueError`` before the attack starts where there is none, or where its gradient does not reach the states on the
    way (BPDA, adjoint).
    """

    weight: float = 1.0
    times: int | None = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and at least 0, which leaves the attack alone; got {self.weight}")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, or None for all times of the sampler; got {self.times}")
        loss_of(self.attack)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        purifiers = [part for part in classifier.modules() if isinstance(part, SupportsRecording)]
        if not purifiers:
            raise ValueError(
                f"DiffAttack needs a diffusion purifier, whose states it can see; {type(classifier).__name__} has none"
            )
        with ExitStack() as stack:
            seen = [stack.enter_context(part.recorded()) for part in purifiers]
            loss = _Deviating(self, loss_of(self.attack), seen, _votes(classifier))
            hook = classifier.register_forward_pre_hook(loss.forget)
            stack.callback(hook.remove)
            return with_loss(self.attack, loss).search(classifier, image, label, threat, noise)


class _Deviating:
    """``loss`` with the gradient of ``loss + weight L_dev``, from the purifications of the last call alone."""

    def __init__(self, attack: DiffAttack, loss: Loss, seen: Sequence[list[RecordedTrajectory]], votes: int) -> None:
        self.attack, self.loss, self.seen, self.votes = attack, loss, seen, votes

    def forget(self, classifier: nn.Module, given: tuple[Any, ...]) -> None:
        """A new call begins."""
        for trajectories in self.seen:
            trajectories.clear()

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        values = self.loss(logits, label)
        deviations = [each.deviation(self.attack.times) for trajectories in self.seen for each in trajectories]
        if not deviations:  # no gradient is recorded
            return values
        rows = torch.stack(deviations).mean(0)[: len(values) * self.votes]  # what comes later only fills a batch up
        steering = self.attack.weight * rows.view(len(values), -1).mean(1)
        return values + (steering - steering.detach())


def _votes(classifier: nn.Module) -> int:
    """How many purifications of an image one answer rests on."""
    inner = getattr(classifier, "classifier", None)
    if isinstance(classifier, Purified) or not isinstance(inner, nn.Module):
        return 1
    return _votes(inner) * (classifier.draws if isinstance(classifier, Voting) else 1)
