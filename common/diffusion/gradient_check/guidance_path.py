"""Gradient check of guidance: central differences along the states and along the reference."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.differentiation import Differentiation, Full
from common.diffusion.gradient_check.checked_purifier import CheckedPurifier, differentiated, projected
from common.diffusion.reverse_process import Process
from common.noise import Noise
from common.numerics.finding import LOOSE, SLOPE, Finding
from common.numerics.finite_differences import COARSE, FINE, directional_derivatives

DIRECTIONS = 2  # random directions for each path


@dataclass(frozen=True)
class _ShortChain:
    """Projected results of a short chain as functions of its two inputs: the initial state and the reference.

    ``process`` is that of one image; both functions take n copies (n,C,H,W), model frame, and return (n,).
    """

    purifier: CheckedPurifier
    process: Process
    noise: Noise
    mode: Differentiation

    def of_states(self, start: Tensor) -> Tensor:
        """Result from initial states; the reference is constant."""
        tensors = [tensor.expand(len(start), *tensor.shape[1:]) for tensor in self.process.denoise.tensors]
        return self._run(start, self.process.denoise.over(tensors))

    def of_references(self, reference: Tensor) -> Tensor:
        """Result from references; the initial state is constant."""
        start = self.process.start.expand(len(reference), *self.process.start.shape[1:])
        return self._run(start, self.purifier.bind(reference, self._rows(len(reference))))

    def _run(self, start: Tensor, denoise: BoundDenoiser) -> Tensor:
        rows = self._rows(len(start))
        process = Process(start, start, rows, self.purifier.sampler(rows), denoise)
        return projected((self.mode if process.recording else Full()).run(process), self.noise)

    def _rows(self, n: int) -> Noise:
        return self.noise.rows(torch.zeros(n, dtype=torch.int64, device=self.noise.index.device))


def guidance_findings(short: CheckedPurifier, image: Tensor, noise: Noise, mode: Differentiation) -> Iterator[Finding]:
    """Finite differences along both paths from the image to the result: the states, and the reference."""
    with torch.no_grad():
        process = short.process(image.detach(), noise)
    if not process.denoise.tensors:
        return
    chain = _ShortChain(short, process, noise, mode)
    paths = {
        "the reference": _slope_error(chain.of_references, process.x0, noise),
        "the states": _slope_error(chain.of_states, process.start, noise),
    }
    path = max(paths, key=lambda name: paths[name])
    yield Finding.of(
        "guidance path",
        paths[path],
        SLOPE if image.dtype == torch.float64 else LOOSE,
        "The gradient flows through the states and through the reference that guides them.",
        f"Finite differences contradict the gradient along {path}: guidance is detached somewhere, or differentiated "
        "without create_graph, so an attack misses it. Keep the graph of the reference and of the guidance.",
    )


def _slope_error(function: Callable[[Tensor], Tensor], point: Tensor, noise: Noise) -> float:
    """Difference of gradient and finite differences beyond the latter's own error, as a share of the larger."""
    v = noise.stream("directions").normals(range(DIRECTIONS), point.shape[1:])[:, 0].to(point)
    with torch.enable_grad():
        leaf = point.detach().clone().requires_grad_()
        gradient = differentiated(function(leaf).sum(), leaf)
    fine, length = point.dtype == torch.float64, float(gradient.norm())
    measured = directional_derivatives(
        function, point, v, FINE if fine else COARSE, tolerance=(1e-5 if fine else 1e-2) * length
    )
    size = max(length, float(measured.value.abs().max()))
    if size <= (1e-7 if fine else 1e-2):  # of a projection of unit length onto pixels: no path
        return 0.0
    gap = float((measured.value - (gradient * v).flatten(1).sum(1)).abs().max())
    return max(0.0, gap - 3 * min(float(measured.spread.max()), size / 100)) / size
