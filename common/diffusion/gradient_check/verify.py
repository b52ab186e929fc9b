"""Is a purification differentiated as it is deployed? The tests that need to see inside a purifier.

``common.robustness.gradient_check.evaluator`` runs them, through ``DiffusionPurifier.gradient_findings``. For S network
evaluations forward they cost 2 S (a run and its recomputation; with ``Full`` S) and, on a chain of at most four steps,
about 20 more, with guidance 200.
"""

from collections.abc import Callable, Iterator
from copy import copy

import torch
from torch import Tensor

from common.diffusion.gradient_check.tracing import Trace, traced
from common.diffusion.gradients import BPDA, Adjoint, Checkpoint, Full, Gradient, GradientError, Surrogate
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import per_row
from common.noise import Noise
from common.numerics.finding import Finding
from common.numerics.finite_differences import COARSE, FINE, directional_derivatives
from common.units import to_model

SHORT = 4  # steps of the chain on which whole graphs are compared
DIRECTIONS = 2  # in which the guidance's two paths are tried
ROUNDING = 1e-5  # relative: float32 rounds at 6e-8, while one step of a grid moves a level by 1e-3 or more
LABEL = 3e-4  # relative: a label computed in float32 is off by 1e-5, one of the 1000 neighbouring ones by 1e-3
SAME = 1e-6  # relative, float64: another order of summation makes 1e-16, which a short chain amplifies
SLOPE = 1e-3  # relative, float64: central differences err by 1e-7, a path that is cut by all that it carries


def approximate(gradient: Gradient) -> str | None:
    """The name of a gradient that is declared to be approximate; None for one that claims to be exact.

    A gradient of one's own declares it by an attribute ``approximate = True``.
    """
    declared = isinstance(gradient, Adjoint | BPDA | Surrogate) or getattr(gradient, "approximate", False)
    return type(gradient).__name__ if declared else None


def verify(
    purifier: DiffusionPurifier, image: Tensor, noise: Noise, double: DiffusionPurifier | None = None
) -> list[Finding]:
    """What was found at one ``image`` (1,C,H,W), pixels, under ``noise``.

    ``double`` is a float64 copy of the purifier; without it the short chain is compared in float32, more loosely. A
    gradient that is declared approximate is measured, and the exact one tested in its place.
    """
    declared = approximate(purifier.gradient)
    findings = [] if declared is None else [_declared(purifier, image, noise, declared)]
    gradient = purifier.gradient if declared is None else Checkpoint()
    findings += _recomputation(purifier, image, noise, gradient)
    short, point = (purifier, image) if double is None else (double, image.double())
    short = copy(short)
    if short.grid.steps > SHORT:
        short.grid = short.grid.coarsen(SHORT)
    return [*findings, _full_graph(short, point, noise, gradient), *_guidance(short, point, noise, gradient)]


def _declared(purifier: DiffusionPurifier, image: Tensor, noise: Noise, name: str) -> Finding:
    ours, exact = (_gradient(purifier, image, noise, mode) for mode in (purifier.gradient, Checkpoint()))
    error = GradientError.between(ours, exact)
    size, cosine = float(error.relative.max()), float(error.cosine.min())
    sentence = (
        f"The gradient {name} is declared approximate: against the exact one its relative error is {size:.2g}, its "
        f'cosine {cosine:.2f}. A robust accuracy measured by it is an upper bound; gradient="checkpoint" is exact.'
    )
    return Finding.undecided("declared gradient", sentence, size)


def _recomputation(purifier: DiffusionPurifier, image: Tensor, noise: Noise, gradient: Gradient) -> Iterator[Finding]:
    """A run of the deployed sampler and its way back, watched."""
    with traced(purifier) as (twin, trace):
        _gradient(twin, image, noise, gradient, trace.turn_round)
    if not trace.steps[0]:
        sentence = "The purifier does not run its steps through a ReverseProcess: they could not be compared."
        yield from (Finding.undecided(name, sentence) for name in ("recomputed states", "time grids"))
        return
    yield Finding.of(
        "recomputed states",
        trace.state_error(),
        ROUNDING,
        "What the backward pass recomputes is what the forward pass computed.",
        "The backward pass recomputes other states than the forward pass had: the gradient is that of another "
        "purification. Draw noise before a step and hand it over; keep networks in eval mode, kernels deterministic.",
    )
    yield Finding.of(
        "time grids",
        _level_error(purifier, image, noise, trace),
        ROUNDING,
        "Diffusion, steps, conditioning and recomputation use the same times.",
        "The denoiser is asked at other noise levels than those of the steps that it serves, or image and first step "
        "are at different times. Let diffusion, solver, conditioning and recomputation read the times from one grid.",
    )
    yield Finding.of(
        "time labels",
        trace.label_error,
        LABEL,
        "Networks are told the noise level that they are asked at.",
        "A network is told another time than that of the noise level it is asked at. Derive the label from sigma.",
    )


def _level_error(purifier: DiffusionPurifier, image: Tensor, noise: Noise, trace: Trace) -> float:
    level = purifier._sigmas()
    if level.ndim == 0:  # dynamics at one noise level, whose times are mere durations
        return max(trace.level_error(level), trace.recomputed_level_error())
    x0, first = to_model(image.detach()), trace.steps[0][0]
    s, sigma = (per_row(of(first.t), x0) for of in (purifier.schedule.scale, purifier.schedule.sigma))
    xt = s * (x0 + sigma * noise.normal(0, x0.shape[1:]).to(x0)) if purifier.adds_noise else s * x0
    return max(_distance(first.before, xt), trace.level_error(), trace.recomputed_level_error())


def _full_graph(short: DiffusionPurifier, image: Tensor, noise: Noise, gradient: Gradient) -> Finding:
    ours, whole = (_gradient(short, image, noise, mode) for mode in (gradient, Full()))
    name, steps = type(gradient).__name__, short.grid.steps
    return Finding.of(
        "full graph",
        _distance(ours, whole),
        SAME if image.dtype == torch.float64 else 1e-2,
        f"On a chain of {steps} steps the gradient is that of the whole graph.",
        f"On a chain of {steps} steps the gradient {name} is not that of the whole graph: it misses or bends a path. "
        "Checkpoint reaches the state and what prepare returns, no tensor that a step closes over.",
    )


def _guidance(short: DiffusionPurifier, image: Tensor, noise: Noise, gradient: Gradient) -> Iterator[Finding]:
    """Finite differences along each of the two ways from the image to the result: the states, and the reference."""
    x0, process = to_model(image.detach()), short._process(noise)
    with torch.no_grad():
        xt, context = short._diffuse(x0, noise), short._context(x0, noise)
    if not context:
        return

    def run(state: Tensor, reference: Tensor | None) -> Tensor:
        rows = noise.rows(torch.zeros(len(state), dtype=torch.int64, device=noise.index.device))
        fixed = tuple(part.expand(len(state), *part.shape[1:]) for part in context)
        given = fixed if reference is None else short._context(reference, rows)
        recording = torch.is_grad_enabled()
        result = gradient.reverse(process, state, rows, given) if recording else process.run(state, rows, given)
        return _projected(result, noise)

    ways = {
        "the reference": _slope_error(lambda x: run(xt.expand(len(x), *xt.shape[1:]), x), x0, noise),
        "the states": _slope_error(lambda x: run(x, None), xt, noise),
    }
    way = max(ways, key=lambda name: ways[name])
    yield Finding.of(
        "guidance path",
        ways[way],
        SLOPE if image.dtype == torch.float64 else 5e-2,
        "The gradient flows through the states and through the reference that guides them.",
        f"Finite differences contradict the gradient along {way}: guidance is detached somewhere, or differentiated "
        "without create_graph, so it hides from an attack. Keep the graph of the reference and of guidance's gradient.",
    )


def _slope_error(function: Callable[[Tensor], Tensor], point: Tensor, noise: Noise) -> float:
    """How far gradient and finite differences differ beyond the latter's own error, as a share of the larger."""
    v = noise.stream("directions").normals(range(DIRECTIONS), point.shape[1:])[:, 0].to(point)
    with torch.enable_grad():
        leaf = point.detach().clone().requires_grad_()
        gradient = _differentiated(function(leaf).sum(), leaf)
    fine, length = point.dtype == torch.float64, float(gradient.norm())
    measured = directional_derivatives(
        function, point, v, FINE if fine else COARSE, tolerance=(1e-5 if fine else 1e-2) * length
    )
    size = max(length, float(measured.value.abs().max()))
    if size <= (1e-7 if fine else 1e-2):  # of a projection of unit length onto pixels: nothing goes this way
        return 0.0
    gap = float((measured.value - (gradient * v).flatten(1).sum(1)).abs().max())
    return max(0.0, gap - 3 * min(float(measured.spread.max()), size / 100)) / size


def _gradient(
    purifier: DiffusionPurifier,
    image: Tensor,
    noise: Noise,
    gradient: Gradient,
    turn_round: Callable[[], None] | None = None,
) -> Tensor:
    """Of a projection of the purified image; zero where no gradient reaches the image."""
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_()
        value = _projected(purifier.purify(leaf, noise, gradient), noise).sum()
        if turn_round is not None:
            turn_round()
        return _differentiated(value, leaf)


def _differentiated(value: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of ``value`` in ``leaf``; zero where none arrives."""
    try:
        found = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    except RuntimeError as error:  # a step that cuts all paths leaves its recomputation nothing to differentiate
        if "does not require grad" not in str(error):
            raise
        found = None
    return torch.zeros_like(leaf) if found is None else found.detach()


def _projected(purified: Tensor, noise: Noise) -> Tensor:
    """``<c, purified>`` per row, (n,), for one random c of unit length."""
    c = noise.stream("projection").normal(0, purified.shape[1:])[:1].to(purified)
    projection: Tensor = (purified * c / c.norm()).flatten(1).sum(1)
    return projection


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm()) if bool(b.any()) else float(a.norm())
