"""Staged attack on guided and randomised defences: where a search starts and what it selects, not more steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.checks.settings import check_count, check_flag, check_optional, check_part
from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.candidates import Candidates
from common.robustness.attacks.climb import Climb, Starts
from common.robustness.attacks.eot import EOTLoss, check_counts, most_likely_classes
from common.robustness.attacks.surrogates import surrogates
from common.robustness.classifiers import Classifier, deployed
from common.robustness.losses import Loss, as_loss, margin, targeted_margin
from common.robustness.padding import Padded
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.threat import Threat

_FAR, _NEAR, _NEARER = 2.0, 0.4, 0.2  # over PGD's default path: from random starts, from candidates, of refinements


@dataclass(frozen=True)
class Budget:
    """The largest numbers of passes for one image: ``gradients``, forward and backward through the defence, every draw
    counted; ``forwards`` through it without a gradient; ``surrogate_gradients`` through the surrogates."""

    gradients: int
    forwards: int
    surrogate_gradients: int


@dataclass(frozen=True)
class Staged(Attack):
    """Adversarial images of a surrogate, climbs from them and from elsewhere, selection on held-out draws, refinement.

    Every stage adds candidates, and 0 in its setting leaves it out:

    1. pool: `Climb`s of ``pool_steps`` steps against each surrogate of the defence (`surrogates`: for AGDM its guidance
       network φ, for a purifier the classifier behind it; ``source`` replaces them), of the margin from ``pool``
       random starts and towards its ``pool_targets`` most likely other classes. The ``kept`` results with the highest
       margin of the surrogate are candidates.
    2. warm: climbs of ``steps`` steps of ``loss`` with ``eot`` draws from the ``warm`` best candidates;
    3. random: from ``random`` random points;
    4. targets: from the best candidate, of the margin of each of the ``targets`` most likely other classes there;
    5. refinement: from the ``refinements`` best candidates, ``refine_steps`` steps with ``refine_eot`` draws.

    Candidates are ranked by ``draws`` draws that no climb uses (`Candidates`); the best one is returned, the clean
    image included. Each climb has draws of its own. With ``early_stop`` an image is done at a candidate whose held-out
    draws are all misclassified. A deterministic classifier has one draw in place of all these numbers.

    ``budget`` states what it costs. Raises ``ValueError`` if all stages are left out, ``RuntimeError`` as `APGD`.
    """

    source: Classifier | None = None
    pool: int = 3
    pool_targets: int = 9
    pool_steps: int = 40
    kept: int = 6
    warm: int = 2
    random: int = 1
    targets: int = 2
    refinements: int = 1
    steps: int = 15
    eot: int = 8
    refine_steps: int = 15
    refine_eot: int = 24
    draws: int = 32
    loss: str | Loss = "soft_margin"
    early_stop: bool = False
    chunk: int | None = None

    threat_kind = ThreatModel

    def __post_init__(self) -> None:
        positive = ("pool_steps", "kept", "steps", "eot", "refine_steps", "refine_eot", "draws")
        check_counts(self.chunk, **{name: getattr(self, name) for name in positive})
        stages = ("pool", "pool_targets", "warm", "random", "targets", "refinements")
        for name in stages:
            check_count(name, getattr(self, name), 0)
        if not any(getattr(self, name) for name in stages):
            raise ValueError(f"a staged attack needs a stage: one of {', '.join(stages)} must be above 0")
        as_loss(self.loss)
        check_flag("early_stop", self.early_stop)
        check_optional(check_part, "source", self.source, Classifier)

    def budget(self, classes: int, deterministic: bool = False, sources: int = 1) -> Budget:
        """Largest numbers of passes against a classifier of K = ``classes`` classes with so many surrogates.

        A deterministic classifier is its own surrogate: its ``surrogate_gradients`` run through the defence too.
        """
        eot, refine, draws = (1, 1, 1) if deterministic else (self.eot, self.refine_eot, self.draws)
        climbs = self.warm + self.random + min(self.targets, classes - 1)
        pool = self.pool + min(self.pool_targets, classes - 1)
        candidates = 1 + sources * min(self.kept, pool) + climbs + self.refinements
        gradients = climbs * self.steps * eot + self.refinements * self.refine_steps * refine
        forwards = candidates * draws
        if deterministic:  # the points at the ends of climbs, and the clean and the kept images of the pool
            forwards += climbs + self.refinements + (2 * pool + 1 if pool else 0)
        return Budget(gradients, forwards, sources * pool * self.pool_steps)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, type(self).__name__)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        with attacking(classifier, image, label, noise):
            held_out = EOTLoss(classifier, label, noise.stream("held out"), self.draws, self.chunk)
            sources = surrogates(classifier) if self.source is None else [self.source.freeze().to(image.device)]
            if isinstance(classifier, Padded):  # rows do not depend on the batch there either
                sources = [Padded(source) for source in sources]
            if not sources and not self.warm + self.random + self.targets + self.refinements:
                raise ValueError(
                    "the defence has no surrogate to search against, and the pool is the only stage: "
                    "the clean images would be returned. Name a source, or set another stage"
                )
            candidates = Candidates(held_out, image, self._candidates(len(sources)), self.early_stop)
            candidates.add(image, candidates.rows)
            own = self.source is None and not classifier.randomised  # its own surrogate, whose passes are queries
            spent = candidates.best if own else None
            losses = [
                EOTLoss(source, label, noise.stream(f"source {number}"), self.eot, self.chunk)
                for number, source in enumerate(sources)
            ]
            for points in self._pool(losses if len(candidates.rows) else [], image, ball, spent):
                candidates.add(points[candidates.rows], candidates.rows)
            for climb, draws, starts in self._climbs(candidates, ball, noise):
                rows = candidates.rows
                if len(rows):
                    eot = EOTLoss(classifier, label, noise, draws, self.chunk)
                    candidates.add(climb(eot, ball, starts.select(rows), candidates.best), rows)
        return candidates.result()

    def _pool(
        self,
        eots: Sequence[EOTLoss],
        image: Tensor,
        ball: ThreatModel,
        spent: BestIterates | None,
    ) -> Iterator[Tensor]:
        """The kept adversarial images of each surrogate, (B,C,H,W) each; ``spent`` counts the passes."""
        if not self.pool + self.pool_targets:
            return
        every = torch.arange(len(image), device=image.device)
        for eot in eots:
            with deployed(eot.classifier):
                points = torch.stack(list(self._adversarial(eot, image, ball, spent)))
                estimates = [eot(each, margin, "kept", differentiate=False) for each in points]
            if spent is not None:
                for estimate in estimates:
                    spent.count(every, estimate)
            margins = torch.stack([estimate.margin for estimate in estimates])
            kept = margins.topk(min(self.kept, len(points)), dim=0).indices
            yield from (points[row, every] for row in kept)

    def _adversarial(
        self, eot: EOTLoss, image: Tensor, ball: ThreatModel, spent: BestIterates | None
    ) -> Iterator[Tensor]:
        """Climbs against a surrogate, from random starts."""
        every = torch.arange(len(image), device=image.device)
        clean = eot(image, margin, "clean", differentiate=False)
        if spent is not None:
            spent.count(every, clean)
        classes = most_likely_classes(clean.logits, eot.label, self.pool_targets) if self.pool_targets else []
        for number, target in enumerate([*[None] * self.pool, *classes]):
            name = f"pool {number}"
            start = ball.random_start(image, eot.noise.stream(f"{name} start"))
            climb = Climb(self.pool_steps, margin if target is None else targeted_margin, _FAR)
            yield climb(eot, ball, Starts(image, start, every, name, target), spent)

    def _climbs(self, candidates: Candidates, ball: ThreatModel, noise: Noise) -> Iterator[tuple[Climb, int, Starts]]:
        """Climbs against the defence, with their numbers of draws; a stage starts from the best candidates so far."""
        image, loss, label = candidates.image, as_loss(self.loss), candidates.held_out.label
        every = torch.arange(len(image), device=image.device)
        for number, x in enumerate(candidates.best_of(self.warm)):
            yield Climb(self.steps, loss, _NEAR), self.eot, Starts(image, x, every, f"warm {number}")
        for number in range(self.random):
            x = ball.random_start(image, noise.stream(f"random {number} start"))
            yield Climb(self.steps, loss, _FAR), self.eot, Starts(image, x, every, f"random {number}")
        if self.targets:
            (x,) = candidates.best_of(1)
            for number, target in enumerate(most_likely_classes(candidates.logits.clone(), label, self.targets)):
                starts = Starts(image, x, every, f"target {number}", target)
                yield Climb(self.steps, targeted_margin, _NEAR), self.eot, starts
        for number, x in enumerate(candidates.best_of(self.refinements)):
            starts = Starts(image, x, every, f"refinement {number}")
            yield Climb(self.refine_steps, loss, _NEARER), self.refine_eot, starts

    def _candidates(self, sources: int) -> int:
        """The largest number of candidates of an image, the clean one included."""
        kept = sources * min(self.kept, self.pool + self.pool_targets)
        return 1 + kept + self.warm + self.random + self.targets + self.refinements
