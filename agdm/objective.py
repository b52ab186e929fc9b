"""What trains the guidance network φ: TRADES (arXiv 1901.08573) on diffused images, with shared noise.

The adversary works on the clean image in pixels, the network sees the diffused one, and no adversarial example is
generated through the diffusion model: that makes retraining φ for another threat cheap (AGDM, arXiv 2403.16067).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.diffusion.schedules import Schedule, per_row
from common.noise import Noise
from common.robustness.classifiers import deployed
from common.robustness.losses import cross_entropy, kl
from common.robustness.threat import ThreatModel
from common.units import to_model

# steps of a training noise: the time, the diffusion, the adversary's start
TIME, DIFFUSION, START = range(3)


def draw_sigma(noise: Noise, schedule: Schedule, t_max: float, clean: float = 0.5) -> Tensor:
    """Noise levels σ (B,) to train φ at: 0 with probability ``clean``, else σ(t) with t uniform in (0, t_max].

    c_φ(x') is taken at σ = 0 and c_φ(x_t) along the whole reverse process, hence both.
    """
    u = (noise.uniform(TIME, ()) - clean) / (1 - clean)
    return torch.where(u > 0, schedule.sigma(u.clamp(min=0) * t_max), 0.0)


class TradesLoss(NamedTuple):
    """Per image (B,): ``natural`` = CE(p_φ(. | x_t), y), ``robust`` = KL(p_φ(. | x_t) || p_φ(. | x_t')), and
    ``total = natural + λ robust``."""

    natural: Tensor
    robust: Tensor
    total: Tensor


class Trades:
    """The adversarial objective on diffused images::

        CE(p_φ(. | x_t), y) + λ max_{||δ|| <= ε} KL(p_φ(. | x_t) || p_φ(. | x_t'))
        x_t = x + σ n,   x_t' = (x + δ) + σ n          the same n, x in the model frame, unscaled

    δ is crafted on the pixels, inside the threat model and [0,1], by projected gradient ascent from
    x + 0.001 N(0, I) with φ in eval mode, as TRADES does. It knows n: the strongest adversary of that draw.

    ``weight`` is λ (6 in TRADES; 0 leaves out the adversary: standard training on diffused images, a control).
    ``step_size`` in pixels; by default 2.5 ε / steps.
    """

    def __init__(
        self, threat: ThreatModel, weight: float = 6.0, steps: int = 10, step_size: float | None = None
    ) -> None:
        if weight < 0 or steps < 1 or (step_size is not None and step_size <= 0):
            got = f"weight={weight}, steps={steps}, step_size={step_size}"
            raise ValueError(f"Trades needs weight >= 0, steps >= 1 and step_size > 0; got {got}")
        self.threat = threat
        self.weight = weight
        self.steps = steps
        self.step_size = 2.5 * threat.eps / steps if step_size is None else step_size

    def __call__(self, network: nn.Module, image: Tensor, label: Tensor, sigma: Tensor, noise: Noise) -> TradesLoss:
        """Losses of images (B,C,H,W) in pixels at noise levels ``sigma`` (B,), model frame; see ``TradesLoss``."""
        n = per_row(sigma, image) * noise.normal(DIFFUSION, image.shape[1:], image.dtype)
        logits = network(to_model(image) + n, sigma)[1]
        natural = cross_entropy(logits, label)
        if self.weight == 0:
            return TradesLoss(natural, torch.zeros_like(natural), natural)
        adv = self.craft(network, image, sigma, noise)
        robust = kl(network(to_model(adv) + n, sigma)[1], logits)
        return TradesLoss(natural, robust, natural + self.weight * robust)

    def craft(self, network: nn.Module, image: Tensor, sigma: Tensor, noise: Noise) -> Tensor:
        """The inner maximum's adversarial images (B,C,H,W) in pixels; φ's mode is restored afterwards."""
        n = per_row(sigma, image) * noise.normal(DIFFUSION, image.shape[1:], image.dtype)
        adv = self.threat.project(image, image + 1e-3 * noise.normal(START, image.shape[1:], image.dtype))
        with deployed(network), torch.enable_grad():
            logits = network(to_model(image) + n, sigma)[1].detach()
            for _ in range(self.steps):
                adv.requires_grad_()
                divergence = kl(network(to_model(adv) + n, sigma)[1], logits)
                (gradient,) = torch.autograd.grad(divergence.sum(), adv)
                adv = self.threat.project(image, self.threat.ascend(adv.detach(), gradient, self.step_size))
        return adv
