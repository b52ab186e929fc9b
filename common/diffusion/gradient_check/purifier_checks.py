"""Gradient checks of a purifier: its recomputation, noise levels, time labels and paths from the image.

``common.robustness.gradient_check`` runs them through ``DiffusionPurifier.gradient_findings``. For S network
evaluations forward they cost 2 S (a run and its recomputation; with ``Full`` S) and, on a chain of at most four steps,
about 20 more, with guidance 200.
"""

from collections.abc import Callable, Iterator
from copy import copy

import torch
from torch import Tensor

from common.diffusion.differentiation import Checkpoint, Differentiation, Full
from common.diffusion.gradient_check.checked_purifier import CheckedPurifier, differentiated, projected
from common.diffusion.gradient_check.gradient_error import GradientError
from common.diffusion.gradient_check.guidance_path import guidance_findings
from common.diffusion.gradient_check.trace import Trace
from common.diffusion.gradient_check.tracing import traced
from common.diffusion.schedules import per_row
from common.noise import Noise
from common.numerics.finding import DECLARED_GRADIENT, ROUNDING, Finding
from common.units import to_model

SHORT = 4  # steps of the chain on which whole graphs are compared
LABEL = 3e-4  # relative: a label computed in float32 is off by 1e-5, one of the 1000 neighbouring ones by 1e-3
SAME = 1e-6  # relative, float64: another order of summation makes 1e-16, which a short chain amplifies


def gradient_findings(
    purifier: CheckedPurifier, image: Tensor, noise: Noise, double: CheckedPurifier | None = None
) -> list[Finding]:
    """Gradient checks at one ``image`` (1,C,H,W), pixels, under ``noise``.

    ``double`` is a float64 copy of the purifier; without it the short chain is compared in float32, more loosely. The
    error of a gradient that is declared approximate is measured, and the exact one is checked in its place.
    """
    findings = [_declared(purifier, image, noise)] if purifier.gradient.approximate else []
    mode = Checkpoint() if purifier.gradient.approximate else purifier.gradient
    findings += _recomputation(purifier, image, noise, mode)
    short, point = (purifier, image) if double is None else (double, image.double())
    short = copy(short)
    if short.grid.steps > SHORT:
        short.grid = short.grid.coarsen(SHORT)
    return [*findings, _full_graph(short, point, noise, mode), *guidance_findings(short, point, noise, mode)]


def _declared(purifier: CheckedPurifier, image: Tensor, noise: Noise) -> Finding:
    ours, exact = (_gradient(purifier, image, noise, mode) for mode in (purifier.gradient, Checkpoint()))
    error = GradientError.between(ours, exact)
    size, cosine = float(error.relative.max()), float(error.cosine.min())
    sentence = (
        f"The gradient {type(purifier.gradient).__name__} is declared approximate: against the exact one its relative "
        f"error is {size:.2g}, its cosine {cosine:.2f}. A robust accuracy measured by it is an upper bound; "
        'gradient="checkpoint" is exact.'
    )
    return Finding.undecided(DECLARED_GRADIENT, sentence, size)


def _recomputation(purifier: CheckedPurifier, image: Tensor, noise: Noise, mode: Differentiation) -> Iterator[Finding]:
    """A traced run of the deployed sampler and its backward pass."""
    with traced(purifier, mode) as (trace, traced_mode):
        _gradient(purifier, image, noise, traced_mode, trace.turn_round)
    if not trace.steps[0]:
        sentence = "The purifier does not run its process by its mode of differentiation: steps cannot be compared."
        yield from (Finding.undecided(name, sentence) for name in ("recomputed states", "time grids"))
        return
    yield Finding.of(
        "recomputed states",
        trace.state_error(),
        ROUNDING,
        "The backward pass recomputes the states of the forward pass.",
        "The backward pass recomputes other states than the forward pass had: the gradient is that of another "
        "purification. Draw noise before a step; keep networks in eval mode, kernels deterministic.",
    )
    yield Finding.of(
        "time grids",
        _level_error(purifier, image, noise, trace),
        ROUNDING,
        "Diffusion, steps, conditioning and recomputation use the same times.",
        "The denoiser is called at other noise levels than those of its steps, or image and first step are at "
        "different times. Let diffusion, solver, conditioning and recomputation read the times from one grid.",
    )
    yield Finding.of(
        "time labels",
        trace.label_error,
        LABEL,
        "Networks receive the time label of their noise level.",
        "A network receives another time label than that of its noise level. Derive the label from sigma.",
    )


def _level_error(purifier: CheckedPurifier, image: Tensor, noise: Noise, trace: Trace) -> float:
    error, first = max(trace.level_error(), trace.recomputed_level_error()), trace.steps[0][0]
    if torch.equal(first.step.sigma, first.step.sigma_next):  # dynamics at one noise level: nothing was diffused
        return error
    x0 = to_model(image.detach())
    s, sigma = (per_row(level, x0) for level in (first.step.scale, first.step.sigma))
    xt = s * (x0 + sigma * noise.normal(0, x0.shape[1:]).to(x0)) if purifier.adds_noise else s * x0
    return max(_distance(purifier.sampler(noise).solver.image(first.before), xt), error)


def _full_graph(short: CheckedPurifier, image: Tensor, noise: Noise, mode: Differentiation) -> Finding:
    ours, whole = (_gradient(short, image, noise, each) for each in (mode, Full()))
    name, steps = type(mode).__name__, short.grid.steps
    return Finding.of(
        "full graph",
        _distance(ours, whole),
        SAME if image.dtype == torch.float64 else 1e-2,
        f"On a chain of {steps} steps the gradient is that of the whole graph.",
        f"On a chain of {steps} steps the gradient {name} is not that of the whole graph: a path is missing or wrong. "
        "Checkpoint reaches the state and the tensors of the bound denoiser, no tensor that it holds otherwise.",
    )


def _gradient(
    purifier: CheckedPurifier,
    image: Tensor,
    noise: Noise,
    mode: Differentiation,
    turn_round: Callable[[], None] | None = None,
) -> Tensor:
    """Gradient of a projection of the purified image; zero where none reaches the image."""
    with torch.enable_grad(), purifier.differentiated(mode):
        leaf = image.detach().clone().requires_grad_()
        value = projected(purifier(leaf, noise), noise).sum()
        if turn_round is not None:
            turn_round()
        return differentiated(value, leaf)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm()) if bool(b.any()) else float(a.norm())
