"""AGDM (arXiv 2403.16067): DiffPure with a reverse process guided by an adversarially trained network."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from agdm.guided import GuidedAncestral, GuidedDenoiser
from agdm.potential import Guidance, SupportsGradient, as_guidance
from agdm.steering import Steering
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.gradients import Differentiation
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.reverse_process import Sampler
from common.diffusion.schedules import VP, Schedule
from common.diffusion.solvers import Ancestral, Solver
from common.noise import Noise
from common.units import to_model


class AGDM(DiffusionPurifier):
    """DiffPure with a guided denoiser, for x = x0 + σ n and g = ∇_x log p_φ(y, x' | x), x' the purifier's input::

        D̂(x, σ) = D(x, σ) + scale σ² g(x, σ, x')

    By Tweedie's formula this adds ``scale * g`` to the score, and it is the only change: every solver inherits its
    guided form. In the variance-preserving state x_t = s x, where 1 - ᾱ = (s σ)² and g_t = ∇_{x_t} = g / s, it is

    * noise prediction:    ε̂ = (x - D̂)/σ = ε - scale √(1-ᾱ) g_t
    * DDPM:                μ̂ = μ + scale β_t g_t / √α_t, the paper's mean shift Σ_t g up to a factor 1 + O(β)
    * reverse VP-SDE:      dx = [-½ β x - β (score + scale g_t)] dt + √β dw
    * probability flow:    dx = [-½ β x - ½ β (score + scale g_t)] dt: half the push, so the same scale is weaker in
      the ODE and DDIM than in DDPM and the SDE. For Gaussian data of variance v and a constant g the end moves by
      scale g v (√r - 1) there and by scale g v ln r here, r = 1 + σ(t_star)²/v: half as far where the noise is small
      beside the data, more where it is not (0.51 for v = 1 and 0.72 for v = 0.04 at t_star 0.1)

    x' is not diffused: its embedding is taken once, at σ = 0, and a gradient through the purifier reaches the image
    through it as well as through x_t. ``steering`` changes this, where the gradient is taken, and how it enters: see
    ``Steering``. ``guidance`` is a ``Guidance``: AGDM's, or one of ``agdm.baselines``; ``scale`` multiplies its whole
    log-potential (the paper's single s; it is not known: ``scale_for`` calibrates it). At scale 0 this is DiffPure, bit
    for bit. The rest is as in ``DiffusionPurifier``.

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
        if not 0 <= scale < float("inf"):
            raise ValueError(f"scale must be finite and >= 0, 0 meaning no guidance; got {scale}")
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
        """DiffPure's, whose steps are guided at their mean where the steering is of a step."""
        plain = super().sampler(noise)
        if not (self.scale and self.steering.of_a_step):
            return plain
        ancestral = cast(Ancestral, plain.solver)  # GuidedAncestral refuses other solvers
        return replace(plain, solver=GuidedAncestral(ancestral, self.steering))

    def bind(self, x0: Tensor, noise: Noise) -> BoundDenoiser:
        """D̂ towards the reference x' = ``x0``, model frame, which is embedded here unless it is diffused."""
        if not self.scale:
            return super().bind(x0, noise)
        if self.steering.reference == "clean":
            tensors = self.guidance.embed(x0)
        else:
            source = noise if self.steering.reference == "diffused" else noise.stream("reference")
            tensors = (x0, source.normal(0, x0.shape[1:]).to(x0))
        return GuidedDenoiser(self.denoiser, tensors, guidance=self.guidance, scale=self.scale, steering=self.steering)

    @torch.no_grad()
    def push(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """Guidance relative to denoising where the reverse process starts: ‖scale σ² g‖ / ‖D - x‖ per image, (B,).

        Proportional to ``scale`` and independent of the solver; ``scale_for`` uses all steps. On 8x8 digits (t_star
        0.1, 5 steps) 0.5 to 1 was useful; at 2, transfer attacks from φ alone succeeded more often than the white-box
        attack: the gradient was masked, the image no safer.
        """
        x0, noise = to_model(image), self._noise(image, noise)
        sigma = self.schedule.sigma(self.grid.nodes[0]).to(x0)
        x = x0 + sigma * noise.normal(0, x0.shape[1:]).to(x0)
        denoised, guided = self.denoiser(x, sigma), self.bind(x0, noise)(x, sigma)
        ratio: Tensor = (guided - denoised).flatten(1).norm(dim=1) / (denoised - x).flatten(1).norm(dim=1)
        return ratio

    @torch.no_grad()
    def shifts(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """Guidance relative to each step of DiffPure's path: ‖Σ_t g‖ / ‖μ - x_t‖, (S,B), μ the mean of the step.

        μ is the solver's step without noise. Proportional to ``scale`` if the solver calls the denoiser once a step.
        ``image`` (B,C,H,W) in pixels; costs three purifications.
        """
        guided = self.process(image, noise)
        plain = replace(guided, sampler=super().sampler(guided.noise), denoise=BoundDenoiser(self.denoiser))
        x, ratios = plain.start, []
        for step in plain.steps:
            silent = replace(step, draws=None)
            mean = plain.step(silent, x)
            moved, way = guided.step(silent, x) - mean, mean - x
            ratios.append(moved.flatten(1).norm(dim=1) / way.flatten(1).norm(dim=1))
            x = plain.step(step, x)
        return torch.stack(ratios)

    def scale_for(self, ratio: float, image: Tensor, noise: Noise | None = None) -> float:
        """Calibrated scale: the one at which the median of ``shifts`` over steps and images is ``ratio``.

        A scale does not carry over to another network or distance; ``ratio`` does. (It does not make samplers equal: in
        the probability flow both the guidance and the step are half as long.) With training images in pixels::

            purifier = AGDM(denoiser, guidance, t_star=0.07)
            purifier.scale = purifier.scale_for(0.2, images)

        Ratios to try: 0.05, 0.1, 0.2, 0.5; the scale of 100 of ``configs/tour`` is one of 0.45. Raises ``ValueError``
        if guidance has no effect, and for an empty batch.
        """
        if not 0 < ratio < float("inf"):
            raise ValueError(f"ratio must be finite and > 0, a fraction of the step's length; got {ratio}")
        if not len(image):
            raise ValueError(f"a scale is calibrated on images (B,C,H,W), B >= 1; got {tuple(image.shape)}")
        median = float(self.shifts(image, noise).median())
        if not median > 0:
            raise ValueError(
                f"at scale {self.scale} guidance must move the steps; got a median ratio of {median}. Start at scale=1"
            )
        return ratio * self.scale / median
