"""AGDM (arXiv 2403.16067): a reverse process steered, by an adversarially trained network, to its input's meaning."""

from dataclasses import fields
from inspect import signature
from typing import cast

import torch
from torch import Tensor, nn

from agdm.guidance import Guidance
from agdm.steering import GuidedSteps, Steering, steered
from common.diffusion.gradients import Gradient
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.reverse_process import ReverseProcess
from common.diffusion.schedules import VP, Schedule, per_row
from common.diffusion.solvers import Solver
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
        guidance: Guidance | nn.Module,
        t_star: float,
        scale: float = 1.0,
        steps: int | None = None,
        solver: str | Solver = "euler_maruyama",
        gradient: str | Gradient = "checkpoint",
        schedule: Schedule | None = None,
        t_end: float = 1e-5,
        steering: Steering | None = None,
    ) -> None:
        if not 0 <= scale < float("inf"):
            raise ValueError(f"scale must be finite and >= 0, 0 meaning no guidance; got {scale}")
        if not (hasattr(guidance, "gradient") or hasattr(guidance, "gradient_at")):
            raise ValueError(f"guidance must have gradient(x, sigma, reference); got {type(guidance).__name__}")
        self.scale = scale
        if steering is not None and not isinstance(steering, Steering):
            raise ValueError(f'steering must be a Steering, such as Steering(at="mean"), or None; got {steering!r}')
        self.steering = Steering() if steering is None else steering
        embed = getattr(guidance, "embed", None)
        if self.steering.reference != "clean" and embed and len(signature(embed).parameters) < 2:
            got = f"{type(guidance).__name__}.embed(reference)"
            raise ValueError(f"a diffused reference needs a guidance with embed(reference, sigma); got {got}")
        super().__init__(denoiser, schedule or VP(), t_star, steps, solver, gradient, t_end)
        if isinstance(guidance, nn.Module):
            guidance.requires_grad_(False).eval()
        self.guidance = cast(Guidance, guidance)

    def _process(self, noise: Noise | None = None) -> ReverseProcess:
        process = super()._process(noise)
        if not (self.scale and self.steering.of_a_step):
            return process
        parts = {part.name: getattr(process, part.name) for part in fields(process)} | {"denoise": super().denoise}

        def gradient(x: Tensor, sigma: Tensor, *context: Tensor) -> Tensor:
            return self.scale * self.guide(x, sigma, *context)

        return GuidedSteps(**parts, gradient=gradient, steering=self.steering)

    def prepare(self, x0: Tensor) -> tuple[Tensor, ...]:
        """The embedding of the reference x' = ``x0``, model frame; itself if it is embedded later."""
        if not self.scale:
            return ()
        later = self.steering.reference != "clean" or not hasattr(self.guidance, "embed")
        return (x0,) if later else self.guidance.embed(x0)

    def _context(self, x0: Tensor, noise: Noise) -> tuple[Tensor, ...]:
        """What ``prepare`` returns and, for a reference that is diffused, its noise."""
        if not self.scale or self.steering.reference == "clean":
            return self.prepare(x0)
        source = noise if self.steering.reference == "diffused" else noise.stream("reference")
        return (*self.prepare(x0), source.normal(0, x0.shape[1:]).to(x0))

    def guide(self, x: Tensor, sigma: Tensor, *context: Tensor) -> Tensor:
        """g(x, σ, x') without ``scale``, (B,C,H,W)."""
        if self.steering.reference != "clean":
            x0, n = context
            reference = x0 + per_row(sigma, x) * n
            context = self.guidance.embed(reference, sigma) if hasattr(self.guidance, "embed") else (reference,)
        whole = not hasattr(self.guidance, "gradient_at")  # a guidance that keeps no embedding
        gradient = self.guidance.gradient if whole else self.guidance.gradient_at
        return gradient(x, sigma, *context)

    def denoise(self, x: Tensor, sigma: Tensor, *context: Tensor) -> Tensor:
        """D̂(x, σ): the guided denoiser; ``context`` as a purification prepares it."""
        if self.scale == 0:
            return super().denoise(x, sigma)

        def gradient(x: Tensor, sigma: Tensor) -> Tensor:
            return self.guide(x, sigma, *context)

        denoised, g = steered(super().denoise, gradient, self.steering.at, x, sigma, context)
        return denoised + self.scale * per_row(sigma, x) ** 2 * g

    @torch.no_grad()
    def push(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """How hard the guidance pushes where the reverse process starts: ‖scale σ² g‖ / ‖D - x‖ per image, (B,).

        It is proportional to ``scale``, and that of D̂, whatever the solver; ``scale_for`` looks at all steps. On 8x8
        digits (t_star 0.1, 5 steps) 0.5 to 1 served; at 2, images attacked through φ alone fooled the purifier more
        often than the white-box attack did: the gradient was masked, the image no safer.
        """
        x0, noise = to_model(image), self._noise(image, noise)
        sigma = self.schedule.sigma(self.grid.interval(1)[0]).to(x0)
        x = x0 + sigma * noise.normal(0, x0.shape[1:]).to(x0)
        denoised, guided = super().denoise(x, sigma), self.denoise(x, sigma, *self._context(x0, noise))
        ratio: Tensor = (guided - denoised).flatten(1).norm(dim=1) / (denoised - x).flatten(1).norm(dim=1)
        return ratio

    @torch.no_grad()
    def shifts(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """‖Σ_t g‖ / ‖μ - x_t‖: by how much guidance moves the mean μ of each step of DiffPure's path, (S,B).

        μ is what the solver's step gives without noise. Proportional to ``scale``, if the solver asks the denoiser once
        a step. Of images (B,C,H,W) in pixels; three purifications' work.
        """
        x0, noise = to_model(image), self._noise(image, noise)
        context, guided = self._context(x0, noise), self._process(noise)
        plain = ReverseProcess(super().denoise, self.schedule, self.solver, self._grid(noise))
        xt, draws, ratios = self._diffuse(x0, noise), plain.draws(noise, x0), []
        for k in range(1, plain.grid.steps + 1):
            mean = plain.step(k, xt, None)
            moved, way = guided.step(k, xt, None, *context) - mean, mean - xt
            ratios.append(moved.flatten(1).norm(dim=1) / way.flatten(1).norm(dim=1))
            xt = plain.step(k, xt, draws)
        return torch.stack(ratios)

    def scale_for(self, ratio: float, image: Tensor, noise: Noise | None = None) -> float:
        """The scale at which the median of ``shifts`` over steps and images is ``ratio``, to calibrate by.

        A scale means nothing for another network or distance; ``ratio`` does. (It does not make samplers equal: in the
        probability flow the step that is pushed half as hard is half as long.) With training images in pixels::

            purifier = AGDM(denoiser, guidance, t_star=0.07)
            purifier.scale = purifier.scale_for(0.2, images)

        Ratios to try: 0.05, 0.1, 0.2, 0.5; the scale of 100 of ``configs/tour`` is one of 0.45. Raises ``ValueError``
        for a purifier that guidance does not move, and for no images.
        """
        if not 0 < ratio < float("inf"):
            raise ValueError(f"ratio must be finite and > 0, a share of the step's own length; got {ratio}")
        if not len(image):
            raise ValueError(f"a scale is calibrated on images (B,C,H,W), B >= 1; got {tuple(image.shape)}")
        median = float(self.shifts(image, noise).median())
        if not median > 0:
            raise ValueError(
                f"at scale {self.scale} guidance moves nothing: a median ratio of {median}. Start at scale=1"
            )
        return ratio * self.scale / median
