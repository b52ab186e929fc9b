"""AGDM (arXiv 2403.16067): DiffPure with a reverse process guided by an adversarially trained network."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from agdm.guided import GuidedAncestral, GuidedDenoiser
from agdm.potential import Guidance, SupportsGradient, as_guidance
from agdm.steering import Steering
from common.checks.settings import check_not_negative, check_optional
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.differentiation import Differentiation
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.reverse_process import Sampler
from common.diffusion.schedules import VP, Schedule, check_schedule
from common.diffusion.solvers import Ancestral, Solver
from common.noise import Noise
from common.numerics.copies import copied
from common.units import to_model


class AGDM(DiffusionPurifier):
    """DiffPure with a guided denoiser, for x = x0 + σ n and g = ∇_x log p_φ(y, x' | x), x' the purifier's input::

        D̂(x, σ) = D(x, σ) + scale σ² g(x, σ, x')

    By Tweedie's formula this adds ``scale * g`` to the score, and it is the only change: every solver inherits its
    guided form. In the variance-preserving state x_t = s x, where 1 - ᾱ = (s σ)² and g_t = ∇_{x_t} = g / s, it is

    * noise prediction:    ε̂ = (x - D̂)/σ = ε - scale √(1-ᾱ) g_t
    * DDPM:                μ̂ = μ + scale β_t g_t / √α_t, the paper's mean shift Σ_t g up to a factor 1 + O(β)
    * reverse VP-SDE:      dx = [-½ β x - β (score + scale g_t)] dt + √β dw
    * probability flow:    dx = [-½ β x - ½ β (score + scale g_t)] dt: half the guidance of the SDE

    So the same scale is weaker in the ODE and DDIM than in the SDE and DDPM. For Gaussian data of variance v and a
    constant g the guidance displaces x_{t_end} by scale g v (√r - 1) in the ODE and by scale g v ln r in the SDE,
    r = 1 + σ(t_star)²/v: a ratio of one half where the noise is small beside the data, larger where it is not (0.51 for
    v = 1 and 0.72 for v = 0.04 at t_star 0.1).

    x' is not diffused: its embedding is taken once, at σ = 0, and a gradient through the purifier reaches the image
    through it as well as through x_t. ``steering`` selects another reference, point of the gradient or form: see
    ``Steering``. ``guidance`` is a ``Guidance``: AGDM's, or one of ``agdm.baselines``; ``scale`` multiplies its whole
    log-potential (the paper's single s, which it does not state: ``scale_for`` calibrates it). At scale 0 this is
    DiffPure, bit for bit. The rest is as in ``DiffusionPurifier``.

    The paper diffuses to t_star 0.07 on CIFAR-10 (from a review), one step per DDPM index.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        guidance: Guidance | SupportsGradient,
        t_star: float,
        scale: float = 1.0,
        steps: int | None = None,
        solver: str | Solver = "euler_maruyama",
        gradient: str | Differentiation = "checkpoint",
        schedule: Schedule | None = None,
        t_end: float = 1e-5,
        steering: Steering | None = None,
    ) -> None:
        check_not_negative("scale", scale, note="0 is no guidance")
        check_optional(check_schedule, "schedule", schedule)
        if steering is not None and not isinstance(steering, Steering):
            raise ValueError(f'steering must be a Steering, such as Steering(at="mean"), or None; got {steering!r}')
        self.scale, self.steering = scale, steering or Steering()
        guide = as_guidance(guidance)
        if self.steering.reference != "clean" and not guide.embeds_noisy:
            got = f"{type(guidance).__name__}, which embeds clean references"
            raise ValueError(f"a diffused reference needs a guidance with embed(reference, sigma); got {got}")
        super().__init__(denoiser, schedule or VP(), t_star, steps, solver, gradient, t_end)
        if isinstance(guide, nn.Module):
            guide.requires_grad_(False).eval()
        self.guidance = guide

    def sampler(self, noise: Noise | None = None) -> Sampler:
        """DiffPure's sampler, with ``GuidedAncestral`` as its solver where the steering needs the step."""
        plain = super().sampler(noise)
        if not (self.scale and self.steering.needs_step):
            return plain
        ancestral = cast(Ancestral, plain.solver)  # GuidedAncestral raises for other solvers
        return replace(plain, solver=GuidedAncestral(ancestral, self.steering))

    @property
    def guides(self) -> tuple[nn.Module, ...]:
        return (self.guidance,) if isinstance(self.guidance, nn.Module) else ()

    @property
    def differentiated_twice(self) -> tuple[nn.Module, ...]:
        """The guidance, and the denoiser where the gradient is taken through it."""
        return (*self.guides, self.denoiser) if self.steering.at == "denoised" else self.guides

    def bind(self, x0: Tensor, noise: Noise) -> BoundDenoiser:
        """D̂ with the reference x' = ``x0`` (B,C,H,W), model frame, embedded here unless it is diffused."""
        if not self.scale:
            return super().bind(x0, noise)
        if self.steering.reference == "clean":
            tensors = self.guidance.embed(*copied(x0))
        else:
            source = noise if self.steering.reference == "diffused" else noise.stream("reference")
            tensors = (x0, source.normal(0, x0.shape[1:]).to(x0))
        return GuidedDenoiser(self.denoiser, tensors, guidance=self.guidance, scale=self.scale, steering=self.steering)

    @torch.no_grad()
    def start_ratio(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """Ratio of guidance and denoising at x_{t*}: ‖scale σ² g‖ / ‖D - x‖ per image, (B,).

        ``image`` (B,C,H,W) in pixels. Proportional to ``scale`` and independent of the solver; costs one step. On 8x8
        digits (t_star 0.1, 5 steps) ratios of 0.5 to 1 were useful. At 2, transfer attacks from φ alone succeeded more
        often than the white-box attack: the gradient was masked, and robustness did not increase.
        """
        x0, noise = to_model(image), self._noise(image, noise)
        sigma = self.schedule.sigma(self.grid.nodes[0]).to(x0, non_blocking=x0.is_cuda)
        x = x0 + sigma * noise.normal(0, x0.shape[1:]).to(x0)
        denoised, guided = self.denoiser(x, sigma), self.bind(x0, noise)(x, sigma)
        return _norms(guided - denoised) / _norms(denoised - x)

    @torch.no_grad()
    def step_ratios(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """Ratio of guidance and step along DiffPure's path: ‖μ̂ - μ‖ / ‖μ - x_t‖ per step and image, (S,B).

        μ and μ̂ are the solver's steps from x_t without noise, unguided and guided; μ̂ - μ = Σ_t g for ancestral steps.
        Proportional to ``scale`` for solvers with one denoiser call per step. ``image`` (B,C,H,W) in pixels; costs
        three purifications.
        """
        guided = self.process(image, noise)
        plain = replace(guided, sampler=super().sampler(guided.noise), denoise=BoundDenoiser(self.denoiser))
        x, ratios = plain.start, []
        for step in plain.steps:
            noiseless = replace(step, draws=None)
            mean, guided_mean = plain.step(noiseless, x), guided.step(noiseless, x)
            ratios.append(_norms(guided_mean - mean) / _norms(mean - x))
            x = plain.step(step, x)
        return torch.stack(ratios)

    def scale_for(self, ratio: float, image: Tensor, noise: Noise | None = None) -> float:
        """Calibrated scale: the one at which the median of ``step_ratios`` over steps and images is ``ratio``.

        A scale does not carry over to another network or distance; ``ratio`` does. (Equal ratios do not make samplers
        equal: in the probability flow both the guidance and the step are half as long.) With training images in
        pixels::

            purifier = AGDM(denoiser, guidance, t_star=0.07)
            purifier.scale = purifier.scale_for(0.2, images)

        Ratios to try: 0.05, 0.1, 0.2, 0.5; the scale of 100 in ``configs/tour`` has the ratio 0.45. Raises
        ``ValueError`` for a ratio out of range, for an empty batch, and if the guidance is zero.
        """
        if not 0 < ratio < float("inf"):
            raise ValueError(f"ratio must be finite and > 0, a fraction of the step's length; got {ratio}")
        if not len(image):
            raise ValueError(f"a scale is calibrated on images (B,C,H,W), B >= 1; got {tuple(image.shape)}")
        median = float(self.step_ratios(image, noise).median())
        if not median > 0:
            raise ValueError(
                f"calibration needs a guidance that is not zero: got a median ratio of {median} at scale {self.scale}. "
                "Start at scale=1"
            )
        return ratio * self.scale / median


def _norms(x: Tensor) -> Tensor:
    """Euclidean norm of each row of x (B,...), (B,)."""
    norms: Tensor = x.flatten(1).norm(dim=1)
    return norms
