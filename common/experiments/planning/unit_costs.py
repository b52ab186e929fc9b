"""Unit costs: seconds and network evaluations of one row of each kind of pass, measured at the rows of the test."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from common.engine.memory import gradient_memory
from common.experiments.planning.dry_run import Pass, Passes, purifiers
from common.experiments.planning.measuring import Cost, measure
from common.noise import Noise
from common.robustness.attacks.surrogates import surrogates
from common.robustness.classifiers import Classifier, deployed
from common.robustness.evaluation.batches import Batch

FEW, GROWTH, MOST = 16, 4, 1024  # rows of the first trial, factor to the next, and rows of the largest one
PATIENCE = 4  # a trial longer than so many times the time is the only one
SHORT = (2, 4)  # steps of a purification that is too long to be measured whole


class UnitCosts:
    """Cost per row of passes, each kind measured once, within ``seconds`` or a single call, whichever is longer.

    A purification that is too long is measured with few steps and extrapolated: its cost is affine in their number, if
    all of them are recomputed for a gradient, as where memory is short.
    ``extrapolated`` tells whether any was.
    """

    def __init__(self, classifier: Classifier, batch: Batch, seconds: float) -> None:
        self.classifier, self.image, self.index, self.seconds = classifier, batch[0], batch[2], seconds
        self.extrapolated = False
        self._known: dict[tuple[Pass, int], Cost] = {}

    def cost(self, passes: Passes) -> Cost:
        """The cost of all passes."""
        total = Cost()
        for kind, rows in passes.rows.items():
            total += self.of_row(kind, passes.largest[kind]).times(rows)
        return total

    def of_row(self, kind: Pass, rows: int) -> Cost:
        """The cost of one row of a pass of so many ``rows``, to the next power of two."""
        size = min(MOST, max(FEW, 1 << max(0, rows - 1).bit_length()))
        key = (kind, size)
        if key not in self._known:
            self._known[key] = self._measured(kind, size)
        return self._known[key]

    def _measured(self, kind: Pass, rows: int) -> Cost:
        grids = [part.grid for part in purifiers(self.classifier)] if not kind.surrogate else []
        if grids and max(grid.steps for grid in grids) > 2 * SHORT[1]:
            with gradient_memory(0):
                few = [self._trial(kind, FEW, steps) for steps in (SHORT[0], *SHORT)][1:]
            step = (few[1] + few[0].times(-1)).times(1 / (SHORT[1] - SHORT[0]))
            whole = few[0] + step.times(max(grid.steps for grid in grids) - SHORT[0])
            if step.evaluations > 0 and 2 * whole.seconds > self.seconds:
                self.extrapolated = True
                return whole.times(1 / FEW)
        cost, size = self._trial(kind, FEW), FEW  # prepares kernels
        while size < rows and cost.seconds * min(GROWTH, rows / size) < self.seconds:
            size = min(GROWTH * size, rows)
            cost = self._trial(kind, size)
        trials, spent = list[Cost](), 0.0
        while not trials or (spent + cost.seconds < self.seconds and len(trials) < 5):
            if cost.seconds > PATIENCE * self.seconds:
                return cost.times(1 / size)
            # not the first trial: the first gradient of a shape also measures the memory of its graph
            trials.append(self._trial(kind, size))
            spent += trials[-1].seconds
        trials.sort(key=lambda trial: trial.seconds)
        return trials[len(trials) // 2].times(1 / size)

    def _trial(self, kind: Pass, rows: int, steps: int | None = None) -> Cost:
        """The cost of one pass of so many rows; ``steps`` of the purifiers, None for their own."""
        with _changed(self.classifier, kind.modes, steps):
            return measure(self.classifier, self._work(kind, rows))[0]

    def _work(self, kind: Pass, rows: int) -> Callable[[], None]:
        target = surrogates(self.classifier)[0] if kind.surrogate else self.classifier
        repeated = torch.arange(rows, device=self.image.device) % len(self.image)
        image, noise = (
            self.image[repeated],
            Noise(0, self.index[repeated], torch.arange(rows, device=self.image.device)),
        )

        def work() -> None:
            exact = torch.autocast(image.device.type, enabled=False)
            with deployed(target), exact, torch.set_grad_enabled(kind.gradient):
                if kind.views:
                    target.views(image, noise)
                    return
                leaf = image.clone().requires_grad_(kind.gradient)
                logits: Tensor = target(leaf, noise)
                if kind.gradient and logits.requires_grad:
                    torch.autograd.grad(logits.logsumexp(1).sum(), leaf, allow_unused=True)

        return work


@contextmanager
def _changed(classifier: Classifier, modes: Sequence[Any], steps: int | None) -> Iterator[None]:
    """The purifiers with other differentiation modes, and with fewer steps, while the context lasts."""
    parts = purifiers(classifier)
    grids: list[Any] = [part.grid for part in parts]
    with ExitStack() as stack:
        for part, mode in zip(parts, modes, strict=False):
            stack.enter_context(part.differentiated(mode))
        try:
            if steps is not None:
                for part in parts:
                    part.grid = part.grid.coarsen(steps)
            yield
        finally:
            for part, grid in zip(parts, grids, strict=True):
                part.grid = grid
