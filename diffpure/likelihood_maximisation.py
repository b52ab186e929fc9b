"""Likelihood maximisation (Chen et al., arXiv 2305.15241): gradient ascent on a bound of the image's log-likelihood."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.checks.settings import (
    check_flag,
    check_length,
    check_one_of,
    check_optional,
    check_part,
    check_positive,
    check_sequence,
    check_size,
)
from common.diffusion.differentiation import Differentiation
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.reverse_process import Sampler
from common.diffusion.schedules import EDM
from common.noise import Noise
from common.units import sigma_to_model
from diffpure.ascent import AdamAscent, Ascent
from diffpure.likelihood_bound import WEIGHTS, DistilledBound, LikelihoodBound, Weight


@dataclass(frozen=True)
class DrawnLevels:
    """Noise levels (S,R) float64 of S steps, as the times of ``EDM``: drawn, so in no order. The last node is 0.

    R rows: n for each image, one after the other.
    """

    levels: Tensor

    @property
    def steps(self) -> int:
        """S, the number of steps."""
        return len(self.levels)

    @property
    def nodes(self) -> Tensor:
        """The level of each step and 0, (S+1,R)."""
        return torch.cat((self.levels, torch.zeros_like(self.levels[:1])))

    def coarsen(self, steps: int) -> "DrawnLevels":
        """The first ``steps`` steps."""
        return DrawnLevels(self.levels[:steps])


class LikelihoodMaximisation(DiffusionPurifier):
    """Gradient ascent from the input x_in on a bound of log p(x), with sigma ~ U(levels) and z ~ N(0, I) in each step:

        x <- P(x + lr d(g)),    g = grad_x -w(sigma) ||D(x + sigma z, sigma) - x||^2,

    model frame, D without a label and the gradient through it. P projects onto ||x - x_in||_inf <= eta and, in the last
    step, onto pixels in [0,1]. No noise is added to the image: ``diffuse`` returns it. RDC is this purifier before the
    diffusion classifier of clean images, each with a denoiser that may be the other's::

        Purified(LikelihoodMaximisation(denoiser), NoisedDiffusionClassifier(denoiser, 10, sigma=0, variant="dc"))

    * ``steps``: 5, each of which costs a forward and a backward pass of the denoiser.
    * ``levels``: the ends of the noise levels' range, model frame.
    * ``eta``: radius in PIXEL units, such as "8/255"; None for no bound.
    * ``ascent``: an ``AdamAscent`` or a ``GradientAscent`` with step size and draws per step; None is Adam with lr 0.1,
      as in the published code.
    * ``weight``: w(sigma), "flat" as in the published code, or "elbo".
    * ``gradient``: differentiation of the purifier, as in ``DiffusionPurifier``; the adjoint is not offered. An exact
      one takes second derivatives of the denoiser. The published code's is "bpda".
    * ``distilled``: the denoiser is a constant in g, as in score distillation: no backward pass.

    The published code draws the same noise in every call: that is ``FixedNoise`` around this purifier. Its projection
    onto an L2 ball never binds and is left out. ``levels``, ``steps`` and Adam's lr are read in its code.

    Raises ``ValueError`` for levels outside of the denoiser's range.
    """

    adds_noise = False

    def __init__(
        self,
        denoiser: nn.Module,
        steps: int = 5,
        levels: tuple[float, float] = (0.4, 0.6),
        eta: float | str | None = None,
        ascent: Ascent | None = None,
        weight: Weight = "flat",
        gradient: str | Differentiation = "checkpoint",
        distilled: bool = False,
    ) -> None:
        ends = check_sequence("levels", levels, check_positive, 2, "They are the ends of a range, model frame")
        if len(ends) > 2 or ends[0] > ends[1]:
            raise ValueError(f"levels must be the ends of a range, low <= high, in the model frame; got {levels!r}")
        check_size("steps", steps)
        check_optional(check_part, "ascent", ascent, Ascent, "an AdamAscent or a GradientAscent")
        check_one_of("weight", weight, WEIGHTS)
        self.eta = None if eta is None else check_length("eta", eta)
        if self.eta is not None and self.eta > 1:
            raise ValueError(f"eta must be in pixel units, 0 < eta <= 1; got {eta!r}. Write {self.eta:g}/255")
        self.levels = (float(ends[0]), float(ends[1]))
        self.weight, self.distilled = weight, check_flag("distilled", distilled)
        solver = AdamAscent() if ascent is None else ascent
        super().__init__(denoiser, EDM(self.levels[1]), self.levels[1], steps, solver, gradient, t_end=0.0)

    @property
    def differentiated_twice(self) -> tuple[nn.Module, ...]:
        """The denoiser, whose gradient is a step."""
        return () if self.distilled else (self.denoiser,)

    def sampler(self, noise: Noise | None = None) -> Sampler:
        """Steps at the levels that ``noise`` draws; None: at the lowest and at the highest level."""
        low, high = self.levels
        if noise is None:
            share = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(self.grid.steps, 2)
        else:
            rows = noise if self.solver.draws == 1 else noise.draws(self.solver.draws)
            share = rows.stream("levels").uniform(0, (self.grid.steps,), torch.float64).mT
        return Sampler(self.schedule, self.solver, DrawnLevels(low + (high - low) * share))

    def bind(self, x0: Tensor, noise: Noise) -> LikelihoodBound:
        """The likelihood bound around the input x0 (B,C,H,W), model frame."""
        bound = DistilledBound if self.distilled else LikelihoodBound
        if self.eta is None:
            return bound(self.denoiser, weight=self.weight)
        return bound(self.denoiser, (x0,), weight=self.weight, eta=sigma_to_model(self.eta))

    def diffused(self, x0: Tensor, noise: Noise, t: Tensor) -> Tensor:
        """x0, without noise, at every time."""
        return x0
