"""Planner: the predicted cost of a test, within a measurement of seconds."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from common.engine.memory import gradient_memory
from common.experiments.planning.devices import divided, image_seconds
from common.experiments.planning.images import ImageForecast
from common.experiments.planning.measuring import Cost, measure
from common.experiments.planning.samples import SampleForecast
from common.experiments.planning.terms import Term, around
from common.experiments.planning.unit_costs import UnitCosts
from common.experiments.planning.workload import Workload
from common.records.schema import Record
from common.robustness.certification.smoothing import Smoothing
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.evaluation.evaluator import Evaluator

CHECKS, UNITS = 0.3, 0.05  # shares of the time: each check, each kind of pass
MINIMUM = 0.5  # seconds for an evaluator
DRY = 2  # images of a dry run of a suite

Check = Callable[[], Iterable[Record] | None]
"""A check before a test; its records count its evaluations."""


@dataclass(frozen=True)
class Plan:
    """Predicted cost of a test.

    ``terms`` are those of its evaluators, ``checks`` those before the first image, ``startup`` the seconds until these
    begin, ``extrapolated`` True if a purification was measured with few steps.
    """

    terms: Sequence[Term]
    checks: Sequence[Term]
    startup: float
    extrapolated: bool = False

    @property
    def cost(self) -> Cost:
        """Of all evaluators and checks, without the start."""
        return sum((term.cost for term in (*self.checks, *self.terms)), Cost())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the seconds of all evaluators and checks, errors of the terms being independent."""
        every = (*self.checks, *self.terms)
        low = sum((term.cost.seconds - term.low) ** 2 for term in every) ** 0.5
        high = sum((term.high - term.cost.seconds) ** 2 for term in every) ** 0.5
        return max(0.0, self.cost.seconds - low), self.cost.seconds + high

    def on(self, devices: int, shares: Sequence[int]) -> float:
        """Seconds of the test on so many devices, start included; each begins and checks on its own.

        ``shares``: the numbers of images that a device takes at a time.
        """
        checks = sum(term.cost.seconds for term in self.checks)
        return self.startup + checks + divided(image_seconds(self.terms), devices, shares)


class Planner:
    """Predictions for one defence. ``seconds``: of all measurements together, about."""

    def __init__(self, load: Workload, seconds: float) -> None:
        self.load, self.seconds = load, seconds
        batch = load.take(range(min(load.images, load.classifier.rows)))
        self.units = UnitCosts(load.classifier.classifier, batch, UNITS * seconds)
        with torch.no_grad():
            self.classes = int(load.classifier(batch[0][:1].clone()).shape[1])

    def plan(self, checks: Mapping[str, Check], startup: float) -> Plan:
        """The plan of the load's test, with its ``checks`` by name."""
        with gradient_memory(self.load.memory):
            return self._plan(checks, startup)

    def _plan(self, checks: Mapping[str, Check], startup: float) -> Plan:
        before = [self._check(name, check, CHECKS * self.seconds) for name, check in checks.items()]
        left = self.seconds - sum(term.cost.seconds for term in before)
        firsts = {one.source: self._first(one) for one in self.load.evaluators}
        order = sorted(self.load.evaluators, key=lambda one: _size(firsts[one.source]))
        terms: dict[object, Term] = {}
        for place, evaluator in enumerate(order):
            begin = time.perf_counter()
            share = max(MINIMUM, left / (len(order) - place))
            terms[evaluator.source] = self._measured(evaluator, firsts[evaluator.source], share)
            left -= time.perf_counter() - begin
        return Plan([terms[one.source] for one in self.load.evaluators], before, startup, self.units.extrapolated)

    def counted(self, evaluators: Sequence[Evaluator], images: int) -> list[Term]:
        """Predictions by dry runs alone, of other evaluators of the same defence on so many images, the largest ones.

        Attacks that do not apply to the defence are left out; runs that differ in their seed cost the same.
        """
        load, terms, of_name = replace(self.load, evaluators=evaluators, images=images), [], dict[str, Term]()
        for evaluator in evaluators:
            with suppress(ValueError, RuntimeError), gradient_memory(self.load.memory):
                if evaluator.name not in of_name:
                    of_name[evaluator.name] = replace(self._images(evaluator, load), dry_images=DRY).largest()
                terms.append(of_name[evaluator.name])
        return terms

    def _images(self, evaluator: Evaluator, load: Workload) -> ImageForecast:
        return ImageForecast(evaluator, load, self.units, self.classes)

    def _first(self, evaluator: Evaluator) -> Term | None:
        """The prediction of a dry run; None of a certification, and where an evaluator does not run dry."""
        if isinstance(evaluator, Certified):
            return None
        try:
            return self._images(evaluator, self.load).first()
        except (RuntimeError, ValueError):
            return None

    def _measured(self, evaluator: Evaluator, first: Term | None, seconds: float) -> Term:
        if isinstance(evaluator, Certified) and isinstance(evaluator.smoothing, Smoothing):
            return SampleForecast(evaluator, self.load).predict(seconds)
        return self._images(evaluator, self.load).measured(first, seconds)

    def _check(self, name: str, check: Check, seconds: float) -> Term:
        rows: list[Record] = []
        cost, ended = measure(self.load.classifier, lambda: rows.extend(check() or ()), seconds)
        if rows:  # a record counts what its evaluator counts, copies of networks included
            cost = replace(cost, evaluations=sum(row.cost.evaluations or 0.0 for row in rows if row.cost is not None))
        return around(name, 0, cost, 0, "measured" if ended else "longer than this, and not predicted")


def _size(term: Term | None) -> float:
    return math.inf if term is None else term.cost.seconds
