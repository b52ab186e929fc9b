"""Low-frequency attack: optimised smoothing filters, within a perceptual bound."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.checks.settings import check_count, check_flag, check_number, check_positive, check_sequence
from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss, check_counts, per_image, usable
from common.robustness.attacks.filter_chain import FilterChain
from common.robustness.attacks.perceptual_search import distance_with_gradient, within_bound
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, as_loss
from common.robustness.threats.norm_ball import unit
from common.robustness.threats.perceptual import Perceptual
from common.robustness.threats.threat import Threat, require_threat


@dataclass(frozen=True)
class LowFrequency(Attack):
    """Adam on a chain of smoothing filters and a modifier, within a `Perceptual` bound.

        adv = image + s (F_m(... F_1(image + modifier)) - image),
        F_b(x)(p) = sum_q softmax_q(theta_b(p, q)) x(q),      q in the k_b x k_b pixels round p:

    weighted means of the neighbourhood, each pixel of each image with weights of its own. At first the centre has the
    weight ``identity`` and all others are equal. The modifier (C,H,W) starts at zero and keeps image + modifier in
    [0,1]. The share s in [0,1] is 1 where the filtered image is within the bound, else the largest that a few trials
    find within it (`within_bound`): every point at which the classifier is evaluated is allowed. Adam follows, in theta
    and the modifier, the sum of two gradients in pixels, each normalised to length one,

        grad 1/n sum_j loss(classifier(adv, noise_j), label)  -  penalty [the filtered image is outside] grad metric.

    From DiffBreak (arXiv 2411.16598): the idea, optimisable filters and a modifier under a bound on LPIPS that enters
    as a penalty, and the settings: kernels 5, 7, 5, 3 for CIFAR-10, Adam at 0.05 for filters and 0.008 for the
    modifier, 100 steps, 128 draws, VGG's LPIPS 0.05. Our choices: the form of the filters, the share s, normalised
    gradients in place of a penalty of 1e8, and the selection of the best iterate. Its published numbers are therefore
    not this attack's. Only the filters smooth the modifier.

    Returns, per image, the adv with the highest EOT-mean loss: the very image on which it was measured. Of a
    deterministic classifier a misclassified image, if there is any, ranks above all others. It is evaluated once per
    step; ``eot`` has no effect. With ``early_stop`` an image is done at its first. ``chunk`` limits the rows of a pass.
    Memory: about ``10 sum_b k_b^2`` numbers per pixel and image.
    """

    steps: int = 100
    kernels: Sequence[int] = (5, 7, 5, 3)
    filter_rate: float = 0.05
    modifier_rate: float = 0.008
    penalty: float = 3.0
    identity: float = 0.9
    eot: int = 128
    loss: str | Loss = "margin"
    early_stop: bool = False
    chunk: int | None = None

    threat_kind = Perceptual

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, eot=self.eot)
        if any(size < 3 or size % 2 == 0 for size in check_sequence("kernels", self.kernels, check_count)):
            raise ValueError(f"kernels must be odd sizes of at least 3 pixels; got {list(self.kernels)}")
        for name in ("filter_rate", "modifier_rate", "penalty"):
            check_positive(name, getattr(self, name))
        check_number("identity, a share,", self.identity, above=0, below=1)
        check_flag("early_stop", self.early_stop)
        as_loss(self.loss)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        perceptual = require_threat(threat, Perceptual, type(self).__name__)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        eot = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        best = BestIterates(image, self.steps + 1, eot.deterministic, self.early_stop)
        with attacking(classifier, image, label, noise):
            chain = FilterChain(image, self.kernels, self.identity)
            rates = ((chain.filters, self.filter_rate), ([chain.modifier], self.modifier_rate))
            adam = torch.optim.Adam([{"params": part, "lr": rate} for part, rate in rates], maximize=True)
            for step in range(self.steps + 1):
                rows = best.active
                if not len(rows):
                    break
                filtered = chain(rows)
                distance, slope = distance_with_gradient(perceptual, image[rows], filtered.detach(), self.chunk)
                adv = within_bound(perceptual, image[rows], filtered.detach(), distance, self.chunk)
                estimate = eot(adv, as_loss(self.loss), f"step {step}", rows, step < self.steps)
                best.update(rows, adv, estimate)
                if estimate.gradient is not None:
                    outside = per_image((distance > perceptual.eps).to(image.dtype), adv)
                    ascent = unit(usable(estimate.gradient)) - self.penalty * outside * unit(usable(slope))
                    chain.differentiate(filtered, ascent)
                    adam.step()
                    chain.clamp_modifier()
        return best.result()
