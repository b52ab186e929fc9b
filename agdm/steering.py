"""Where guidance's gradient is taken and how it enters a reverse step: what AGDM's paper (2403.16067) leaves open.

Reverse steps are those of ``common.diffusion.solvers``; x = x0 + σ n, x_t = s x and g = ∇_x log-potential.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from common.diffusion.reverse_process import Draws, ReverseProcess
from common.diffusion.schedules import per_row
from common.diffusion.solvers import Ancestral, Denoise, level_of

Reference = Literal["clean", "diffused", "independent"]
At = Literal["x", "mean", "denoised"]
Form = Literal["tweedie", "sigma"]


@dataclass(frozen=True)
class Steering:
    """How a guided process uses its guidance. Each default is what is least costly and exact.

    ``reference``: what the guidance compares the state with.

    * "clean": x' at σ = 0, embedded once per purification.
    * "diffused": x' + σ n at the level σ of the state, n being the noise that diffused x'; where the reverse process
      starts the two are the same. Embedded in every step.
    * "independent": the same with other noise, one draw for the whole path. (GDMP's code draws it at each step anew.)

    ``at``: where the gradient is taken.

    * "x": at the state, by a network trained on noisy images.
    * "mean": at the mean of the ancestral step, at the level where it ends: the point of the Taylor expansion that
      guidance is derived from (Dhariwal and Nichol, arXiv 2105.05233). The same up to O(β).
    * "denoised": at D(x, σ), as at a clean image, and back through the denoiser: g = (∂D/∂x)ᵀ ∇ log-potential(D, 0).
      For a network that knows clean images only, such as an adversarially trained classifier (``AdaptedNetwork``); as
      in DPS (arXiv 2209.14687) and FreeDoM (arXiv 2303.09833). It costs the denoiser's backward pass in every step,
      and under attack its second derivatives.

    ``form``: how it enters.

    * "tweedie": D̂ = D + scale σ² g, ``scale * g`` added to the score; for any solver.
    * "sigma": Σ_t scale ∇_{x_t} added to the mean of the ancestral step, Σ_t the variance of the solver's noise, β_t or
      β̃_t: the paper's. In the last step too, which adds no noise.

    With Σ_t = β_t the forms differ by factors 1 + O(β); β̃_t is smaller by σ²_{t-1}/σ²_t, up to that. For
    "mean" and "sigma" the solver must be ``Ancestral``: they speak of its step.

    Raises ``ValueError`` for other names, and for a diffused reference of a denoised image.
    """

    reference: Reference = "clean"
    at: At = "x"
    form: Form = "tweedie"

    def __post_init__(self) -> None:
        for name, known in (("reference", Reference), ("at", At), ("form", Form)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}; got {getattr(self, name)!r}")
        if self.at == "denoised" and self.reference != "clean":
            raise ValueError(f'at="denoised" compares clean images, reference="clean"; got {self.reference!r}')

    @property
    def of_a_step(self) -> bool:
        """Whether it takes more than a denoiser to steer: the step's mean or variance."""
        return self.at == "mean" or self.form == "sigma"


def steered(
    denoise: Denoise, gradient: Denoise, at: At, x: Tensor, sigma: Tensor, context: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """D(x, σ) and g, at x or at the denoised image, both (B,C,H,W); ``context`` is what ``gradient`` closes over."""
    if at != "denoised":
        return denoise(x, sigma), gradient(x, sigma)
    alive = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *context))
    with torch.enable_grad():
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        denoised = denoise(x, sigma)
        pull = gradient(denoised if alive else denoised.detach(), sigma.new_zeros(()))
        (g,) = torch.autograd.grad(denoised, x, pull, create_graph=alive)
    return (denoised if alive else denoised.detach()), g


@dataclass(frozen=True)
class GuidedSteps(ReverseProcess):
    """Ancestral steps with the gradient taken at their mean, or added to it. ``denoise`` is without guidance.

    ``gradient(x, sigma, *context)`` is scale g. Raises ``ValueError`` for another solver than ``Ancestral``.
    """

    solver: Ancestral
    gradient: Callable[..., Tensor] = field(kw_only=True)
    steering: Steering = field(kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Ancestral):
            form = f'at="{self.steering.at}", form="{self.steering.form}"'
            raise ValueError(
                f"{form} speaks of the ancestral step's mean or variance; got the solver "
                f'{type(self.solver).__name__}. Use solver="ancestral", or at="x" and form="tweedie"'
            )

    def step(self, k: int, xt: Tensor, draws: Draws | None, *context: Tensor) -> Tensor:
        """Step k in 1..S, guided."""
        t, t_next = self.grid.interval(k)
        scale, sigma = self.schedule.scale(t), level_of(self.schedule.sigma(t), xt).expand(len(xt))
        z = None if draws is None else draws[k]
        x = xt / per_row(scale, xt)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoise(x, sigma, *context)

        def gradient(x: Tensor, sigma: Tensor) -> Tensor:
            return self.gradient(x, sigma, *context)

        def ancestral(denoised: Tensor, z: Tensor | None) -> Tensor:
            return self.solver.step(lambda *_: denoised, self.schedule, xt, t, t_next, z, last=k == self.grid.steps)

        if self.steering.at == "mean":
            denoised = denoise(x, sigma)
            scale = self.schedule.scale(t_next)
            mean = ancestral(denoised, None) / per_row(scale, xt)
            g = gradient(mean, level_of(self.schedule.sigma(t_next), xt).expand(len(xt)))
        else:
            denoised, g = steered(denoise, gradient, self.steering.at, x, sigma, context)
        if self.steering.form == "tweedie":
            return ancestral(denoised + per_row(sigma, x) ** 2 * g, z)
        variance = self.solver.deviation(self.schedule, t, t_next) ** 2
        return ancestral(denoised, z) + per_row(variance / scale, xt) * g
