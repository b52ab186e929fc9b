"""Predicted cost of an evaluator from its dry run, and from the evaluator itself on as many images as time allows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from common.experiments.planning.dry_run import Pass, Passes, dry_run
from common.experiments.planning.measuring import Cost, measure
from common.experiments.planning.terms import NOISE, Term, around, relative_error
from common.experiments.planning.unit_costs import UnitCosts
from common.experiments.planning.workload import SLOW, Workload, spread
from common.records.schema import Record
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator

VIEWS = Pass(surrogate=False, gradient=False, views=True)
LENGTHS, SHORT = ("queries", "steps"), 10  # settings that are the length of a search; that of a short one


@dataclass
class ImageForecast:
    """Predicted cost of an evaluator that works image by image: clean accuracy, attacks and their variants.

    ``units`` are those of the defence; ``classes`` its K. ``dry_images``: most images of a dry run, without padding;
    None for as many as fill a call, whose padding counts.
    """

    evaluator: Evaluator
    load: Workload
    units: UnitCosts
    classes: int
    dry_images: int | None = None
    _passes: dict[tuple[int, bool], Passes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.evaluator.source.title

    def passes(self, images: int, resists: bool = True) -> Passes:
        """Passes of a portion of ``images``; rows that only pad a call count."""
        key = (min(images, self.load.images, self.dry_images or self.load.classifier.rows), resists)
        if key not in self._passes:
            self._passes[key] = self._dry(key[0], resists)
        known, factor = self._passes[key], images / key[0]
        limit = getattr(getattr(self.evaluator, "attack", None), "chunk", None) or max(known.largest.values())
        largest = {kind: max(rows, min(int(rows * factor), limit)) for kind, rows in known.largest.items()}
        scaled = known.times(factor)
        return scaled if factor <= 1 else Passes(scaled.rows, largest)

    def _dry(self, images: int, resists: bool) -> Passes:
        """Passes of a dry run; with ``dry_images`` of short ones, since a search is affine in its length."""

        def run(evaluator: Evaluator, padded: bool = False) -> Passes:
            return dry_run(
                evaluator, self.load.classifier, self.load.take(range(images)), self.classes, resists, padded
            )

        if self.dry_images is None:
            return run(self.evaluator, padded=True)
        if not isinstance(attacked := self.evaluator, Attacked):
            return run(attacked)
        lengths = {name: attacked.attack.settings().get(name) or 0 for name in LENGTHS}
        name = next((name for name, length in lengths.items() if length > 4 * SHORT), None)
        if name is None:
            return run(attacked)
        short = [replace(attacked, attack=attacked.attack.vary(**{name: length})) for length in (SHORT, 2 * SHORT)]
        few, more = map(run, short)
        return few.extrapolated(more, (lengths[name] - SHORT) / SHORT)

    def counted(self, resists: bool = True, slow: bool = False) -> Cost:
        """Cost of all images by the dry run: the largest one, or with ``resists`` False the least."""
        portions, total = [*self.load.portions(self.evaluator, slow)], Cost()
        sizes = [len(portion) for portion in portions]
        for size in set(sizes):
            total += self.units.cost(self.passes(size, resists)).times(sizes.count(size))
        keep = self.evaluator.keep_images if isinstance(self.evaluator, Attacked) else 0
        for kept in (min(keep, portion.stop) - portion.start for portion in portions):
            if kept > 0 and self.dry_images is None:
                rows = max(kept, self.load.classifier.rows)
                total += self.units.of_row(VIEWS, rows).times(rows)
        return total

    def largest(self) -> Term:
        """The prediction by the dry run alone, as if no image stopped early."""
        exact = not (isinstance(self.evaluator, Attacked) and self.evaluator.attack.settings().get("early_stop"))
        return around(self.name, self.load.count(self.evaluator), self.counted(), 0.15, "counted", exact=exact)

    def first(self) -> Term:
        """The prediction by the dry run alone."""
        high, low = self.counted(), self.counted(resists=False)
        count = self.load.count(self.evaluator)
        exact = abs(high.evaluations - low.evaluations) <= 1e-6 * high.evaluations
        if exact:
            return around(self.name, count, high, 0.15, "counted; passes measured", exact=True)
        return Term(self.name, count, high, low.seconds, high.seconds, "at most: as if no image stopped early")

    def measured(self, first: Term | None, seconds: float) -> Term:
        """The ``first`` prediction, corrected by the evaluator on images of the test for ``seconds``."""
        if first is None:
            return self._without_dry_run(seconds)
        each = first.cost.seconds / max(1, first.images)
        if first.cost.seconds <= seconds:
            whole = self._run([*self.load.portions(self.evaluator, each >= SLOW)], 2 * seconds)
            if whole.images == first.images:
                basis = "measured on all images"
                return around(self.name, first.images, whole.cost, 0, basis, shares=whole.shares, exact=True)
        size = min(self.load.classifier.rows, first.images)
        order, portions = spread(first.images), list[Sequence[int]]()
        most = max(1, int(0.8 * seconds / each / size)) if each else 1
        for start in range(0, first.images - size + 1, size):
            portions.append(order[start : start + size])
        if each * size > 1.5 * seconds:
            return first
        sample = self._run(portions[:most], seconds)
        return first if not sample.images else self._scaled(first, sample, size)

    def _scaled(self, first: Term, sample: "Sample", size: int) -> Term:
        """The ``first`` prediction times the ratio of measured and counted cost in a sample."""
        model = self.units.cost(self.passes(size)).times(sample.images / size)
        slow = sample.cost.seconds / sample.images >= SLOW
        counted = self.counted(slow=slow)
        seconds = counted.seconds * sample.cost.seconds / model.seconds
        evaluations = counted.evaluations
        exact = first.exact and not self.units.extrapolated
        if not exact:
            evaluations *= sample.cost.evaluations / model.evaluations
        width = 0.1 if first.exact else NOISE + relative_error(sample.shares, first.images)
        basis = f"{'counted; ' if exact else ''}measured on {sample.images} of {first.images} images"
        cost = Cost(seconds, evaluations, sample.cost.peak_bytes)
        return around(self.name, first.images, cost, width, basis, shares=sample.shares, exact=exact)

    def _without_dry_run(self, seconds: float) -> Term:
        """The prediction from as many portions of the test as time allows; the first one takes as long as it takes."""
        portions, count = [*self.load.portions(self.evaluator, False)], self.load.count(self.evaluator)
        sample = self._run(portions, seconds)
        if not sample.images:
            cost, _ = measure(self.load.classifier, lambda: None)
            return Term(self.name, count, cost, 0.0, math.inf, "not predicted: an image takes longer than the time")
        whole = sample.cost.times(count / sample.images)
        width = relative_error(sample.shares, count) if any(s != sample.shares[0] for s in sample.shares) else 0.2
        basis = f"measured on {sample.images} of {count} images"
        return around(self.name, count, whole, width * (sample.images < count), basis, shares=sample.shares)

    def _evaluate(self, batch: Batch, rows: list[Record]) -> None:
        rows.extend(self.evaluator(self.load.classifier, batch))

    def _run(self, portions: Sequence[Sequence[int]], seconds: float) -> "Sample":
        sample = Sample()
        for portion in portions:
            left = seconds - sample.cost.seconds
            if left <= 0 or (sample.images and left < sample.cost.seconds / sample.images * len(portion)):
                break
            rows: list[Record] = []
            work = partial(self._evaluate, self.load.take(portion), rows)
            cost, ended = measure(self.load.classifier, work, max(left, 0.5) * (1.0 if sample.images else 1.5))
            if not ended:
                break
            sample.add(len(portion), cost, rows)
        return sample


@dataclass
class Sample:
    """Images that were evaluated, their cost, and relative costs of each: queries of an attack, or equal ones."""

    images: int = 0
    cost: Cost = field(default_factory=Cost)
    shares: list[float] = field(default_factory=list)

    def add(self, images: int, cost: Cost, rows: Sequence[Record]) -> None:
        """Add a portion."""
        queries = [float(getattr(row, "queries", None) or 0) for row in rows]
        self.images, self.cost = self.images + images, self.cost + cost
        self.shares += queries if any(queries) else [1.0] * images
