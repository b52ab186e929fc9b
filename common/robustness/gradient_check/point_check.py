"""Gradient checks of a classifier at one image, under one draw of noise."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.checks.images import check_classes
from common.noise import Noise
from common.numerics.finding import DECLARED_GRADIENT, LOOSE, SLOPE, Finding
from common.numerics.finite_differences import COARSE, FINE, directional_derivatives
from common.robustness.classifiers import Classifier
from common.robustness.gradient_check import findings
from common.robustness.gradient_check.findings import logit_error
from common.robustness.gradient_check.recomputation import ForwardBackward, RecomputedCalls, forward_backward
from common.robustness.protocols import SupportsDifferentiation, SupportsGradientCheck

FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError)
UNSETTLED = 0.05  # relative: differences at two distances that disagree by more are inconclusive
FAR = 0.1  # pixels: a distance at which a classifier's logits move


@dataclass(frozen=True)
class PointCheck:
    """A classifier at ``point`` (1,C,H,W) under one row of ``noise``; ``double`` is its float64 copy, or None."""

    classifier: Classifier
    double: Classifier | None
    point: Tensor
    noise: Noise
    directions: int

    @classmethod
    def at(
        cls, classifier: Classifier, double: Classifier | None, image: Tensor, noise: Noise, directions: int
    ) -> "PointCheck":
        """At ``0.02 + 0.96 image`` plus a random offset of at most 0.01: inside of [0,1] and off ties.

        Clamps have no derivative at the border, and neither have ReLUs and poolings where a flat background leaves
        zeros or equal neighbours.
        """
        jitter = 0.02 * noise.stream("point").uniform(0, image.shape[1:]).to(image) - 0.01
        return cls(classifier, double, 0.02 + 0.96 * image + jitter, noise, directions)

    def findings(self, label: Tensor) -> Iterator[Finding]:
        """All findings; ``label`` (1,)."""
        calls, repeated, inputs = RecomputedCalls(), RecomputedCalls(), dict[str, tuple[Tensor, Noise]]()
        with calls.watch(self.classifier), _first_inputs(self.classifier, inputs):
            first = forward_backward(self.classifier, self.point, self.noise, self.weights, calls.start_backward)
        check_classes(label, first.logits.shape[1])
        with repeated.compare(self.classifier, calls.outermost()):
            second = forward_backward(self.classifier, self.point, self.noise, self.weights, repeated.start_backward)
        with torch.no_grad():
            plain = self.classifier(self.point, self.noise)
            other = plain if self.classifier.randomised else self.classifier(self.point, self.noise.draws(1, start=1))
        yield findings.same_noise(first, second)
        yield findings.declared_randomness(logit_error(other, plain))
        yield findings.outputs_are_logits(first.logits)
        inner = list(self._of_parts(inputs))
        declared = any(finding.name == DECLARED_GRADIENT for finding in inner)
        for finding in (
            findings.attacked_as_deployed(logit_error(first.logits, plain)),
            findings.recomputed_networks(repeated.error()),
        ):
            yield findings.declared_approximate(finding) if declared and not finding.passed else finding
        yield from inner
        yield findings.gradient_reaches_image(first, label)
        yield from self._differences(first, plain, declared)

    def _of_parts(self, inputs: dict[str, tuple[Tensor, Noise]]) -> Iterator[Finding]:
        """Findings of parts with checks of their own, at their ``inputs`` by name."""
        for name, (image, noise) in inputs.items():
            double = None if self.double is None else self.double.get_submodule(name)
            part = self.classifier.get_submodule(name)
            if isinstance(part, SupportsGradientCheck):
                yield from part.gradient_findings(image, noise, double)

    def weights(self, logits: Tensor) -> Tensor:
        """Weights of a random projection of the logits, which never saturates, unlike a loss."""
        weights: Tensor = self.noise.stream("weights").normal(0, logits.shape[1:]).to(logits)
        return weights

    def _differences(self, result: ForwardBackward, logits: Tensor, declared: bool) -> Iterator[Finding]:
        """Gradient against finite differences, in float64 if the copy reproduces the deployed ``logits``."""
        with ExitStack() as stack:
            for module in self.double.modules() if self.double is not None and declared else ():
                if isinstance(module, SupportsDifferentiation):
                    stack.enter_context(module.differentiated("checkpoint"))
            double = self._double_result(logits)
            if double is not None and self.double is not None:
                yield from self._compared(self.double, self.point.double(), double)
                if not declared:
                    yield findings.single_precision(result, double)
            elif declared:
                yield Finding.undecided("finite differences", "They were not tried: the gradient is approximate.")
            else:
                yield from self._compared(self.classifier, self.point, result)

    def _double_result(self, logits: Tensor) -> ForwardBackward | None:
        """Forward and backward pass of the float64 copy; None if it fails or has other logits."""
        if self.double is None:
            return None
        try:
            double = forward_backward(self.double, self.point.double(), self.noise, self.weights)
        except FAILURES:
            return None
        return double if logit_error(double.logits, logits) <= LOOSE else None

    def _compared(self, classifier: Classifier, point: Tensor, result: ForwardBackward) -> Iterator[Finding]:
        """Derivatives along random directions against the gradient, and logits that do not move at all."""
        double = point.dtype == torch.float64

        def projected(points: Tensor) -> Tensor:
            rows = torch.zeros(len(points), dtype=torch.int64, device=self.noise.index.device)
            logits = classifier(points, self.noise.rows(rows))
            total: Tensor = (logits * self.weights(logits)).sum(1)
            return total

        v = self.noise.stream("directions").normals(range(self.directions), point.shape[1:])[:, 0].to(point)
        gradient = torch.zeros_like(point) if result.gradient is None else result.gradient
        length = float(gradient.norm())
        measured = directional_derivatives(
            projected, point, v, FINE if double else COARSE, tolerance=(1e-5 if double else 1e-2) * length
        )
        size = max(length, float(measured.value.abs().max()))
        wrong = (measured.value - (gradient * v).flatten(1).sum(1)).abs()
        doubt = float(measured.spread.max()) / size if size else 0.0
        error = float(wrong.max()) / size if size else 0.0
        if doubt <= UNSETTLED:
            yield findings.finite_differences(error, (SLOPE if double else LOOSE) + 3 * min(doubt, 0.01))
        elif double:  # central differences of a differentiable function converge in float64
            yield findings.finite_differences(max(error, doubt), 0.0)
        else:
            yield Finding.undecided("finite differences", "They did not converge in float32; no float64 copy.")
        if bool(measured.flat.all()):
            with torch.no_grad():
                moved = (projected(point + FAR * v) - projected(point - FAR * v)).abs().amax()
            yield findings.staircase(bool(moved > 0))


@contextmanager
def _first_inputs(classifier: nn.Module, inputs: dict[str, tuple[Tensor, Noise]]) -> Iterator[None]:
    """Context manager: store image and noise of the first call of each part with checks of its own, by name."""

    def store(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = [*args, *kwargs.values()]
        if len(values) > 1 and isinstance(values[1], Noise):
            inputs.setdefault(name, (values[0].detach(), values[1]))

    with ExitStack() as stack:
        checked = [name for name, module in classifier.named_modules() if isinstance(module, SupportsGradientCheck)]
        for name in checked:
            module = classifier.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(partial(store, name), with_kwargs=True).remove)
        yield
