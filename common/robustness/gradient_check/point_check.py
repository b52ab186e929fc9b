"""A classifier at one image, under one draw of noise, and the tests that its gradient must pass there."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.noise import Noise
from common.numerics.finding import Finding
from common.numerics.finite_differences import COARSE, FINE, slopes
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.batches import check_labels
from common.robustness.gradient_check import findings as gradient_findings
from common.robustness.gradient_check.findings import gap
from common.robustness.gradient_check.recorder import ForwardBackward, RecomputedCalls, forward_backward
from common.robustness.protocols import SupportsDifferentiation, SupportsGradientCheck

FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError)
SLOPE = 1e-3  # relative, float64: central differences err by 1e-7, a wrong gradient by per cents
LOOSE = 5e-2  # the same in float32
UNSETTLED = 0.05  # relative: differences at two distances that disagree by more say nothing
FAR = 0.1  # pixels: a distance at which a classifier's logits move


@dataclass(frozen=True)
class PointCheck:
    """A classifier at ``point`` (1,C,H,W) under one row of ``noise``; ``double`` is its float64 copy, if it has one."""

    classifier: Classifier
    double: Classifier | None
    point: Tensor
    noise: Noise
    directions: int

    @classmethod
    def at(
        cls, classifier: Classifier, double: Classifier | None, image: Tensor, noise: Noise, directions: int
    ) -> "PointCheck":
        """At ``0.02 + 0.96 image``, moved by at most 0.01 at random: inside of [0,1] and off ties.

        At the border clamps have no derivative, and neither have ReLUs and poolings where a flat background leaves
        zeros or equal neighbours.
        """
        jitter = 0.02 * noise.stream("point").uniform(0, image.shape[1:]).to(image) - 0.01
        return cls(classifier, double, 0.02 + 0.96 * image + jitter, noise, directions)

    def findings(self, label: Tensor) -> Iterator[Finding]:
        """All that can be found; ``label`` (1,)."""
        calls, again, heard = RecomputedCalls(), RecomputedCalls(), dict[str, tuple[Tensor, Noise]]()
        with calls.counted(self.classifier), _overheard(self.classifier, heard):
            first = forward_backward(self.classifier, self.point, self.noise, self._weights, calls.turn_round)
        check_labels(label, first.logits.shape[1])
        with again.compared(self.classifier, calls.outermost()):
            second = forward_backward(self.classifier, self.point, self.noise, self._weights, again.turn_round)
        with torch.no_grad():
            plain = self.classifier(self.point, self.noise)
            other = plain if self.classifier.randomised else self.classifier(self.point, self.noise.draws(1, start=1))
        yield gradient_findings.same(first, second)
        yield gradient_findings.steady(gap(other, plain))
        yield gradient_findings.logits(first.logits)
        inner = list(self._inner(heard))
        declared = any(finding.name == "declared gradient" for finding in inner)
        for finding in (
            gradient_findings.as_deployed(gap(first.logits, plain)),
            gradient_findings.recomputed(again.error()),
        ):
            yield gradient_findings.excused(finding) if declared and not finding.passed else finding
        yield from inner
        yield gradient_findings.alive(first, label)
        yield from self._differences(first, plain, declared)

    def _inner(self, heard: dict[str, tuple[Tensor, Noise]]) -> Iterator[Finding]:
        """What modules find in themselves; ``heard`` is what they were called with."""
        for name, (image, noise) in heard.items():
            double = None if self.double is None else self.double.get_submodule(name)
            part = self.classifier.get_submodule(name)
            if isinstance(part, SupportsGradientCheck):
                yield from part.gradient_findings(image, noise, double)

    def _weights(self, logits: Tensor) -> Tensor:
        """A random projection of the logits: unlike a loss it never saturates."""
        weights: Tensor = self.noise.stream("weights").normal(0, logits.shape[1:]).to(logits)
        return weights

    def _differences(self, answer: ForwardBackward, logits: Tensor, declared: bool) -> Iterator[Finding]:
        """Gradient against finite differences; in float64, if the copy has the ``logits`` that the deployed one has."""
        with ExitStack() as stack:
            for module in self.double.modules() if self.double is not None and declared else ():
                if isinstance(module, SupportsDifferentiation):
                    stack.enter_context(module.differentiated("checkpoint"))
            fine = self._double_answer(logits)
            if fine is not None and self.double is not None:
                yield from self._compared(self.double, self.point.double(), fine)
                if not declared:
                    yield gradient_findings.single(answer, fine)
            elif declared:
                yield Finding.undecided("finite differences", "They were not tried: the gradient is approximate.")
            else:
                yield from self._compared(self.classifier, self.point, answer)

    def _double_answer(self, logits: Tensor) -> ForwardBackward | None:
        try:
            fine = (
                None
                if self.double is None
                else forward_backward(self.double, self.point.double(), self.noise, self._weights)
            )
        except FAILURES:
            return None
        return fine if fine is not None and gap(fine.logits, logits) <= LOOSE else None

    def _compared(self, classifier: Classifier, point: Tensor, answer: ForwardBackward) -> Iterator[Finding]:
        fine = point.dtype == torch.float64

        def projected(points: Tensor) -> Tensor:
            rows = torch.zeros(len(points), dtype=torch.int64, device=self.noise.index.device)
            logits = classifier(points, self.noise.rows(rows))
            total: Tensor = (logits * self._weights(logits)).sum(1)
            return total

        v = self.noise.stream("directions").normals(range(self.directions), point.shape[1:])[:, 0].to(point)
        gradient = torch.zeros_like(point) if answer.gradient is None else answer.gradient
        length = float(gradient.norm())
        measured = slopes(projected, point, v, FINE if fine else COARSE, enough=(1e-5 if fine else 1e-2) * length)
        size = max(length, float(measured.value.abs().max()))
        wrong = (measured.value - (gradient * v).flatten(1).sum(1)).abs()
        doubt = float(measured.spread.max()) / size if size else 0.0
        error = float(wrong.max()) / size if size else 0.0
        if doubt <= UNSETTLED:
            yield gradient_findings.differences(error, (SLOPE if fine else LOOSE) + 3 * min(doubt, 0.01))
        elif fine:  # what is differentiable settles
            yield gradient_findings.differences(max(error, doubt), 0.0)
        else:
            yield Finding.undecided("finite differences", "They do not settle in float32, and float64 is out of reach.")
        if bool(measured.flat.all()):
            with torch.no_grad():
                moved = (projected(point + FAR * v) - projected(point - FAR * v)).abs().amax()
            yield gradient_findings.staircase(bool(moved > 0))


@contextmanager
def _overheard(classifier: nn.Module, heard: dict[str, tuple[Tensor, Noise]]) -> Iterator[None]:
    """Keeps what modules that can verify themselves were first called with, by name."""

    def listen(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [*args, *kwargs.values()]
            if len(given) > 1 and isinstance(given[1], Noise):
                heard.setdefault(name, (given[0].detach(), given[1]))

        return hook

    with ExitStack() as stack:
        checked = [name for name, module in classifier.named_modules() if isinstance(module, SupportsGradientCheck)]
        for name in checked:
            module = classifier.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(listen(name), with_kwargs=True).remove)
        yield
