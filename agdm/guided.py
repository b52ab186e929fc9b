"""The guided denoiser of a purification, and ancestral steps guided at their mean.

x = x0 + σ n, x_t = s x and g = ∇_x log-potential. ``agdm.steering`` defines the variants.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from agdm.potential import Guidance
from agdm.steering import Steering
from common.checks.images import check_like
from common.diffusion.bound_denoiser import BoundDenoiser, Denoise
from common.diffusion.inner_gradients import as_variable, records_gradient
from common.diffusion.networks.layers import twice_differentiable
from common.diffusion.schedules import per_row
from common.diffusion.solvers import Ancestral, Solver, noised
from common.diffusion.steps import Step
from common.numerics.copies import copied


@dataclass(frozen=True)
class GuidedDenoiser(BoundDenoiser):
    """Guided denoiser ``D̂(x, σ) = D(x, σ) + scale σ² g(x, σ)`` with one reference x'.

    Denoiser and guidance get copies, since they may write into their input, and their outputs are checked.

    ``tensors`` are the embedding of x' or, for a diffused reference, x' and its noise n: each step embeds x' + σ n.
    """

    takes_gradient = True

    guidance: Guidance = field(kw_only=True)
    scale: float = field(kw_only=True)
    steering: Steering = field(kw_only=True)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        if self.steering.at == "denoised":
            point = self.denoised_point(x, sigma)
            with torch.enable_grad():  # one graph in forward pass and recomputation, so that they agree bit for bit
                cotangent = self.guidance.gradient_at(*copied(point.value, sigma.new_zeros(()), *self.tensors))
            check_like("the guidance", cotangent, x)
            denoised, g = point.value, point.pulled_back(cotangent)
        else:
            denoised = check_like("the denoiser", self.denoiser(*copied(x, sigma)), x)
            g = self.guidance.gradient_at(*copied(x, sigma, *self.embedding(x, sigma)))
            check_like("the guidance", g, x)
        guided: Tensor = denoised + self.scale * per_row(sigma, x) ** 2 * g
        return guided

    def gradient(self, x: Tensor, sigma: Tensor) -> Tensor:
        """g at x (B,C,H,W), without ``scale``."""
        return check_like("the guidance", self.guidance.gradient_at(*copied(x, sigma, *self.embedding(x, sigma))), x)

    def embedding(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        """Embedding of the reference for a state x at noise level σ."""
        if self.steering.reference == "clean":
            return self.tensors
        reference, n = self.tensors
        return self.guidance.embed(*copied(reference + per_row(sigma, x) * n, sigma))

    def denoised_point(self, x: Tensor, sigma: Tensor) -> "DenoisedPoint":
        """D(x, σ) with its graph, the point of the gradient for ``at="denoised"``."""
        recording = records_gradient(x, *self.tensors)
        with torch.enable_grad(), twice_differentiable():
            x = as_variable(x)
            denoised = check_like("the denoiser", self.denoiser(*copied(x, sigma)), x)
        return DenoisedPoint(x, denoised, recording)


@dataclass(frozen=True)
class DenoisedPoint:
    """A denoised image with its graph, from x: ``denoised`` = D(x, σ), both (B,C,H,W).

    ``recording``: True while an outer gradient is recorded; all results are then part of its graph.
    """

    x: Tensor
    denoised: Tensor
    recording: bool

    @property
    def value(self) -> Tensor:
        """D(x, σ), (B,C,H,W)."""
        return self.denoised if self.recording else self.denoised.detach()

    def pulled_back(self, cotangent: Tensor) -> Tensor:
        """(∂D/∂x)ᵀ ``cotangent``, (B,C,H,W)."""
        (gradient,) = torch.autograd.grad(self.denoised, self.x, cotangent, create_graph=self.recording)
        return gradient


@dataclass(frozen=True)
class GuidedAncestral(Solver):
    """Ancestral steps with g taken at their mean, or added to it: ``at="mean"`` or ``form="sigma"``.

    Needs a ``GuidedDenoiser``. Raises ``ValueError`` for another solver than ``Ancestral``.
    """

    solver: Ancestral
    steering: Steering
    stochastic = True

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Ancestral):
            form = f'at="{self.steering.at}", form="{self.steering.form}"'
            raise ValueError(
                f"{form} needs the mean and variance of ancestral steps; got the solver {type(self.solver).__name__}. "
                'Use solver="ancestral", or at="x" and form="tweedie"'
            )

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        if not isinstance(denoise, GuidedDenoiser):
            raise TypeError(f"GuidedAncestral needs a GuidedDenoiser; got {type(denoise).__name__}")
        y, scale = x / per_row(step.scale, x), step.scale
        if self.steering.at == "mean":
            denoised = check_like("the denoiser", denoise.denoiser(*copied(y, step.level)), y)
            scale = step.scale_next
            mean = self.solver.mean(step, x, denoised)
            g = denoise.scale * denoise.gradient(mean / per_row(scale, x), step.next.level)
        elif self.steering.at == "denoised":
            point = denoise.denoised_point(y, step.level)
            with torch.enable_grad():  # as in GuidedDenoiser
                clean = step.level.new_zeros(())
                cotangent = denoise.guidance.gradient_at(*copied(point.value, clean, *denoise.tensors))
            check_like("the guidance", cotangent, y)
            denoised, g = point.value, point.pulled_back(denoise.scale * cotangent)
        else:
            denoised = check_like("the denoiser", denoise.denoiser(*copied(y, step.level)), y)
            g = denoise.scale * denoise.gradient(y, step.level)
        std = self.solver.deviation(step)
        if self.steering.form == "tweedie":
            return noised(step, self.solver.mean(step, x, denoised + per_row(step.level, x) ** 2 * g), std)
        return noised(step, self.solver.mean(step, x, denoised), std) + per_row(std**2 / scale, x) * g
