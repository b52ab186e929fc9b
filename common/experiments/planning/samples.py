"""Predicted cost of a certification: a few samples of many images, and the certifier's own rule on what may follow."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, variance
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.experiments.planning.measuring import Cost, measure
from common.experiments.planning.terms import Term, around, relative_error
from common.experiments.planning.workload import SLOW, Workload, spread
from common.noise import Noise
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier, ClassifierWrapper
from common.robustness.evaluation.clean_and_certified import Certified

IMAGINED = 8
"""Simulated certifications of an image whose samples are not all known."""


class Capped(Exception):
    """End of a certification whose samples reach the cap."""


class Replayed(ClassifierWrapper):
    """A classifier of which a certifier sees the classes alone; each sample is evaluated once and then remembered.

    Above ``cap`` samples of an image in all, certification ends with `Capped`; with ``imagine`` further samples are
    drawn instead, from the share of each class among the known ones (a Dirichlet prior of 1/2 for each of the label's
    two sides). ``rows`` counts the samples of a certification, whether known or not.
    """

    def __init__(self, classifier: Classifier, num_classes: int) -> None:
        super().__init__(classifier)
        self.classes, self.cap, self.imagine, self.rows = num_classes, 0, False, 0
        self.known: dict[tuple[int, int, int], int] = {}
        self.votes: dict[int, list[int]] = defaultdict(lambda: [0] * num_classes)
        self.draws = np.random.default_rng(0)
        self._share = np.empty(0)

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        noise = Noise.or_fresh(noise, image)
        keys = [(noise.seed, *pair) for pair in zip(noise.index.tolist(), noise.draw.tolist(), strict=True)]
        self.rows += len(keys)
        missing = [place for place, key in enumerate(keys) if key not in self.known]
        if self.imagine:
            drawn = dict(zip(missing, self._imagined(keys[0][1], len(missing)), strict=True))
            classes = [drawn[place] if place in drawn else self.known[key] for place, key in enumerate(keys)]
        else:
            self._evaluate(image, noise, keys, missing)
            classes = [self.known[key] for key in keys]
        chosen = torch.tensor(classes, device=image.device)
        return functional.one_hot(chosen, self.classes).to(image.dtype)

    def begin(self) -> None:
        """Begin the certification of an image."""
        self.rows, self._share = 0, np.empty(0)

    def _evaluate(self, image: Tensor, noise: Noise, keys: Sequence[tuple[int, int, int]], missing: list[int]) -> None:
        left = self.cap - sum(self.votes[keys[0][1]])
        wanted = missing[: max(0, left)]
        if wanted:
            rows = torch.tensor(wanted, device=image.device)
            for place, choice in zip(
                wanted, self.classifier(image[rows], noise.rows(rows)).argmax(1).tolist(), strict=True
            ):
                self.known[keys[place]] = choice
                self.votes[keys[place][1]][choice] += 1
        if len(wanted) < len(missing):
            raise Capped

    def _imagined(self, index: int, count: int) -> list[int]:
        if not len(self._share):
            votes = np.array(self.votes[index], dtype=float)
            prior = np.full(self.classes, 0.5 / (self.classes - 1))
            prior[votes.argmax()] = 0.5
            self._share = self.draws.dirichlet(votes + prior)
        drawn: list[int] = self.draws.choice(self.classes, size=count, p=self._share).tolist()
        return drawn


@dataclass
class SampleForecast:
    """Predicted cost of certifying by `Smoothing` or a certifier derived from it."""

    evaluator: Certified
    load: Workload
    replayed: Replayed = field(init=False)
    evaluations: dict[int, list[Cost]] = field(default_factory=lambda: defaultdict(list))  # by position
    samples: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # evaluated so far, by position
    finished: set[int] = field(default_factory=set)
    _slow: bool = False

    def __post_init__(self) -> None:
        self.replayed = Replayed(self.load.classifier.classifier, self.smoothing.num_classes)

    @property
    def smoothing(self) -> Smoothing:
        """The certifier."""
        assert isinstance(self.evaluator.smoothing, Smoothing)
        return self.evaluator.smoothing

    def predict(self, seconds: float) -> Term:
        """The prediction from ``seconds`` of sampling; if the whole certification takes no longer, it is measured."""
        count = self.load.count(self.evaluator)
        order = spread(count)
        spent = self._sample(order[:1], 1, seconds)  # prepares kernels
        if not self.samples:
            return self._declared(spent)
        self.evaluations.clear()
        self.samples.clear()
        spent += self._sample(order[:1], min(5, self.smoothing.n0 + 1), seconds)
        each = spent / max(1, sum(self.samples.values()))
        cap = max(4, min(self.smoothing.n0, int(0.3 * seconds / (each * count))))
        while spent < seconds and len(self.finished) < count:
            waiting = [position for position in order if position not in self.finished]
            spent += self._sample(waiting, cap, seconds - spent)
            term = self._term()
            if term.cost.seconds <= seconds - spent and (whole := self._whole(1.5 * (seconds - spent))) is not None:
                return whole
            cap *= 4
        return self._term()

    def _sample(self, positions: Sequence[int], cap: int, seconds: float) -> float:
        """Evaluate up to ``cap`` samples of each image until ``seconds`` are spent; returns the seconds."""
        spent, self.replayed.cap, self.replayed.imagine = 0.0, cap, False
        for position in positions:
            before = len(self.replayed.known)
            cost, ended = measure(self.load.classifier, partial(self._certify, position, False), seconds - spent)
            spent += cost.seconds
            if new := len(self.replayed.known) - before:
                self.evaluations[position].append(cost)
                self.samples[position] += new
            if not ended or spent >= seconds:
                break
        return spent

    def _certify(self, position: int, imagine: bool) -> None:
        """Certify an image as its evaluator does; where samples are imagined, on one pixel of it."""
        image, label, index = self.load.take([position])
        image = image[..., :1, :1] if imagine else image
        self.replayed.imagine = imagine
        self.replayed.begin()
        given: dict[str, Any] = {"label": label} if self.smoothing.labelled else {}
        noise = Noise.of(self.evaluator.single_seed, index).stream("smoothing")
        try:
            self.smoothing.certify(self.replayed, image, noise, **given)
        except Capped:
            return
        if not imagine:
            self.finished.add(position)

    def _lengths(self, position: int) -> list[int]:
        """Samples of the certification of an image: their number, or several simulated ones."""
        lengths = []
        for _ in range(1 if position in self.finished else IMAGINED):
            self._certify(position, True)
            lengths.append(self.replayed.rows)
        return lengths

    def _term(self) -> Term:
        seen = [position for position, number in self.samples.items() if number]
        count, name = self.load.count(self.evaluator), self.evaluator.source.title
        lengths = {position: self._lengths(position) for position in seen}
        rows_of = {position: sum(c.evaluations for c in self.evaluations[position]) for position in seen}
        per_image = [fmean(lengths[p]) * rows_of[p] / self.samples[p] for p in seen]
        spent = [cost for costs in self.evaluations.values() for cost in costs]
        rate = sum(c.seconds for c in spent) / max(1.0, sum(c.evaluations for c in spent))
        self._slow = fmean(per_image) * rate >= SLOW
        evaluations = count * fmean(per_image) + self._padding(fmean(per_image) / fmean(map(fmean, lengths.values())))
        known = sum(position in self.finished for position in seen)
        simulated = sum(variance(v) * (rows_of[p] / self.samples[p]) ** 2 for p, v in lengths.items() if len(v) > 1)
        width = relative_error(per_image, count) + 2 * simulated**0.5 / max(1.0, sum(per_image))
        taken = sum(self.samples.values())
        basis = f"{taken:,} samples of {len(seen)} of {count} images, {known} of them decided"
        cost = Cost(evaluations * rate, evaluations, max(c.peak_bytes for c in spent))
        return around(name, count, cost, width, basis, shares=per_image)

    def _declared(self, seconds: float) -> Term:
        """The prediction where a single sample takes too long: its declared evaluations, and the largest number."""
        count, name = self.load.count(self.evaluator), self.evaluator.source.title
        cost, _ = measure(self.load.classifier, lambda: self._certify(0, False), seconds)
        most = self.smoothing.n0 + self.smoothing.n
        declared = self.load.classifier.classifier.evaluations or cost.evaluations
        whole = cost.times(declared / max(1.0, cost.evaluations) * most * count)
        return Term(name, count, whole, 0.0, whole.seconds, "at most: all samples, all classes at all nodes")

    def _padding(self, evaluations: float) -> float:
        """Evaluations of rows that only pad the calls that select a class, at so many ``evaluations`` a row."""
        sizes = [len(portion) for portion in self.load.portions(self.evaluator, self._slow)]
        least = self.load.classifier.rows
        return evaluations * sum(max(0, least - self.smoothing.n0 * size) for size in sizes)

    def _whole(self, seconds: float) -> Term | None:
        """The whole certification as the test runs it; None if it does not end within ``seconds``."""
        total, shares = Cost(), list[float]()
        for portion in self.load.portions(self.evaluator, False):
            batch = self.load.take(portion)
            work = partial(self.evaluator, self.load.classifier, batch)
            cost, ended = measure(self.load.classifier, work, seconds - total.seconds)
            if not ended:
                return None
            total += cost
            shares += [cost.evaluations / len(portion)] * len(portion)
        name, count = self.evaluator.source.title, self.load.count(self.evaluator)
        return around(name, count, total, 0, "measured on all images", shares=shares, exact=True)
