"""Training objective of the guidance network φ: TRADES (arXiv 1901.08573) on diffused images, with shared noise.

The adversary perturbs the clean image in pixels, the network reads the diffused one, and no adversarial example is
generated through the diffusion model: that makes retraining φ for another threat cheap (AGDM, arXiv 2403.16067).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.checks.settings import check_flag, check_part
from common.diffusion.schedules import Schedule, per_row
from common.noise import Noise
from common.robustness.adversarial_training import Inner, InnerMaximum, check_trades, inner_loss
from common.robustness.classifiers import deployed
from common.robustness.losses import cross_entropy, kl
from common.robustness.threats.norm_ball import ThreatModel
from common.units import to_model

TIME, DIFFUSION, START, OTHER = range(4)
"""Steps of the noise in training: the time, n, the start of the adversary, n'."""


def draw_sigma(noise: Noise, schedule: Schedule, t_max: float, clean: float = 0.5) -> Tensor:
    """Noise levels σ (B,) of a training batch: 0 with probability ``clean``, else σ(t) with t uniform in (0, t_max].

    A purification evaluates c_φ(x') at σ = 0 and c_φ(x_t) along the reverse process, hence both.
    """
    u = (noise.uniform(TIME, ()) - clean) / (1 - clean)
    return torch.where(u > 0, schedule.sigma(u.clamp(min=0) * t_max), 0.0)


@dataclass(frozen=True)
class TradesLoss:
    """Per image (B,): ``natural`` = CE(p_φ(. | x_t), y), ``robust`` = KL(p_φ(. | x_t) || p_φ(. | x_t')), and
    ``total = natural + λ robust``."""

    natural: Tensor
    robust: Tensor
    total: Tensor

    def __post_init__(self) -> None:
        for name in ("natural", "robust", "total"):
            check_part(name, getattr(self, name), Tensor)


class Trades:
    """The adversarial objective on diffused images::

        CE(p_φ(. | x_t), y) + λ max_{||δ|| <= ε} KL(p_φ(. | x_t) || p_φ(. | x_t'))
        x_t = x + σ n,   x_t' = (x + δ) + σ n'         n' = n, x in the model frame, unscaled

    δ is crafted on the pixels, inside the threat model and [0,1], by projected gradient ascent from
    x + 0.001 N(0, I) with φ in eval mode, as TRADES does. The adversary sees the noise: it is the strongest for that
    draw. The paper states only that φ is trained by TRADES; each further choice is an argument.

    Parameters
    ----------
    threat:
        a ball of any norm, in pixels, that φ is trained against. For another threat φ alone is retrained.
    weight:
        λ, 6 in TRADES; 0 is standard training on diffused images, a control.
    steps, step_size:
        steps of the ascent, and their size in pixels; by default the sizes add up to 2.5 ε, in L1 to 20 ε (see
        ``InnerMaximum``).
    inner:
        objective of the adversary: the divergence, as in TRADES, or the cross-entropy of y.
    shared_noise:
        False diffuses the attacked image with another noise n': φ is then also trained to agree over draws, and the
        loss is positive even at δ = 0.
    """

    def __init__(
        self,
        threat: ThreatModel,
        weight: float = 6.0,
        steps: int = 10,
        step_size: float | str | None = None,
        inner: Inner = "kl",
        shared_noise: bool = True,
    ) -> None:
        check_trades(weight, inner)
        self.threat, self.weight, self.steps = threat, weight, steps
        self.inner, self.shared_noise = inner, check_flag("shared_noise", shared_noise)
        self.ascent = InnerMaximum(threat, steps, step_size)
        self.step_size = self.ascent.length

    def __call__(self, network: nn.Module, image: Tensor, label: Tensor, sigma: Tensor, noise: Noise) -> TradesLoss:
        """Losses of images (B,C,H,W) in pixels at noise levels ``sigma`` (B,), model frame; see ``TradesLoss``."""
        n, other = self._diffusions(image, sigma, noise)
        logits = network(to_model(image) + n, sigma)[1]
        natural = cross_entropy(logits, label)
        if self.weight == 0:
            return TradesLoss(natural, torch.zeros_like(natural), natural)
        targets = (label,) if self.inner == "cross_entropy" else ()  # the divergence needs no label
        adv = self.craft(network, image, sigma, noise, *targets)
        robust = kl(network(to_model(adv) + other, sigma)[1], logits)
        return TradesLoss(natural, robust, natural + self.weight * robust)

    def craft(
        self, network: nn.Module, image: Tensor, sigma: Tensor, noise: Noise, label: Tensor | None = None
    ) -> Tensor:
        """Adversarial images (B,C,H,W) in pixels by the inner maximisation; φ's mode is restored afterwards.

        Raises ``ValueError`` for ``inner="cross_entropy"`` without a ``label`` (B,).
        """
        n, other = self._diffusions(image, sigma, noise)
        if self.inner == "kl":
            with deployed(network), torch.no_grad():
                target = network(to_model(image) + n, sigma)[1]
        elif label is None:
            raise ValueError('inner="cross_entropy" needs the labels: craft(..., label)')
        else:
            target = label
        loss = inner_loss(self.inner)

        def objective(adv: Tensor) -> Tensor:
            return loss(network(to_model(adv) + other, sigma)[1], target)

        return self.ascent(network, objective, image, noise, START)

    def _diffusions(self, image: Tensor, sigma: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """σ n and σ n', (B,C,H,W)."""
        shape, level = image.shape[1:], per_row(sigma, image)
        n = level * noise.normal(DIFFUSION, shape, image.dtype)
        return n, n if self.shared_noise else level * noise.normal(OTHER, shape, image.dtype)
