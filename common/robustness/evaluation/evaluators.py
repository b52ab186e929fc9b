"""Evaluators: classifier x batch -> records, one per image.

Every random number comes from ``Noise.of(seed, index)``, split into streams that cannot overlap: ``score`` for the
draws that are scored, ``attack`` for all that an attack draws, ``control`` and ``random`` for the matched queries
beside an attack, ``smoothing`` for certificates. So an attack never sees the noise it will be scored on (unless it is
told to: ``knows="noise"``), and nothing in a record depends on how images were batched, but for the rounding of floats.

This is a border: whatever arrives in a batch, and whatever an attack returns, is checked here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from common.engine.meter import Meter
from common.noise import Noise
from common.records.rows import rounded_down
from common.records.store import Record
from common.robustness.attacks.attack import Attack, AttackResult, merge_results
from common.robustness.attacks.known_noise import KnownNoise
from common.robustness.certification.certificate import Certificate, Certifier
from common.robustness.classifiers import Classifier, deployed
from common.robustness.evaluation.batches import Batch, check_evaluation, check_labels
from common.robustness.evaluation.decisions import Rule, ask, check_rule, decided, scores
from common.robustness.evaluation.stored_images import pictures
from common.robustness.masking.checks import masking_signs
from common.robustness.threats.threat import Threat

Knowledge = Literal["model", "noise"]


class Evaluator(Protocol):
    """``evaluator(classifier, (image, label, index))`` -> one record per image, in the batch's order.

    ``image`` (B,C,H,W) float32 in [0,1], ``label`` (B,) int64 in 0..K-1, ``index`` (B,) int64, distinct: the image's
    number in the data set, which names its record and its noise. Anything else raises ``ValueError``, as does
    inference mode. The classifier is evaluated as deployed: evaluation mode, float32, no parameter gradients.

    An evaluator may carry ``limit``: a test shows it only its first so many images.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, classifier: Classifier, batch: Batch) -> list[Record]: ...


@dataclass(frozen=True)
class Clean:
    """Accuracy on the images as they are: ``predictions`` and ``correct``, one entry per decision.

    ``draws`` decisions are scored, each by ``rule`` over ``votes`` draws of the defence: "single", "majority" or
    "mean_logit" (`Voting`). A deterministic classifier is asked once, whatever they say. Several seeds stand for as
    many evaluators (`suite`).
    """

    draws: int = 1
    seed: int | Sequence[int] = 0
    name: str = "clean"
    rule: Rule = "single"
    votes: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.name, self.seed, self.draws, self.limit)
        check_rule(self.rule, self.votes)

    def __call__(self, classifier: Classifier, batch: Batch) -> list[Record]:
        image, label, index = check_evaluation(classifier, batch)
        with Meter(classifier) as meter:
            noise = Noise.of(one_seed(self), index).stream("score")
            logits = ask(decided(classifier, self.rule, self.votes), image, label, noise, self.draws)
        rows = [{"predictions": p, "correct": c} for p, c in zip(*scores(logits, label), strict=True)]
        return _records(self.name, label, index, rows, meter)


@dataclass(frozen=True)
class Attacked:
    """Accuracy under an attack, which is not trusted: its budget is checked and its images are classified anew.

    The protocol. ``draws``: N fresh decisions are scored, each by ``rule`` over ``votes`` draws of the defence, as in
    `Clean`; the attack itself works against single draws. ``resubmissions``: M <= N, how often the attacker may hand
    in an image. ``knows``: "model" is the defence with all its parts and settings; "noise" also the very draws that it
    will be scored on, for each of which an adversarial image is made. ``threat`` None is the test's own.

    - ``predictions``, ``correct``: the attacked image on N fresh decisions (one if deterministic).
    - ``clean_predictions``, ``random_predictions``: matched controls, as many other decisions on the unattacked image
      and on a random perturbation of the same size (`Threat.random_like`).
    - ``distance`` in the threat's norm (the largest, if there are several), ``norm``, ``eps``, ``within_budget``,
      ``white_box``, ``knows``, ``resubmissions``, ``rule``, ``votes``.
    - ``queries``, ``broken``, ``dead``, ``curve``: what the attack saw (`AttackResult`), where it says so.
    - ``zero_gradient``, ``probabilities``, ``repeatable``: signs of masking (`checks.probe`), for white-box attacks.
    - ``images``, for the first ``keep_images`` images: PNG in base64 of ``clean``, ``adversarial`` and the classifier's
      own views of the attacked image, under the noise of the first scored draw.

    An attack that leaves the threat model is a bug, not a result: ``ValueError``, and no record of that batch.
    """

    attack: Attack
    threat: Threat | None = None
    draws: int = 10
    seed: int | Sequence[int] = 0
    name: str = "attacked"
    keep_images: int = 8
    rule: Rule = "single"
    votes: int = 1
    resubmissions: int = 1
    knows: Knowledge = "model"
    limit: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.name, self.seed, self.draws, self.limit)
        check_rule(self.rule, self.votes)
        if self.keep_images < 0:
            raise ValueError(f"keep_images must be at least 0; got {self.keep_images}")
        if not 1 <= self.resubmissions <= self.draws:
            raise ValueError(
                f"resubmissions M must be in 1 .. draws N = {self.draws}: each is scored; got {self.resubmissions}"
            )
        if self.knows not in get_args(Knowledge):
            raise ValueError(f"knows must be one of {', '.join(get_args(Knowledge))}; got {self.knows!r}")
        if self.threat is not None and isinstance(self.attack, Attack):
            self.attack.check(self.threat)

    def __call__(self, classifier: Classifier, batch: Batch) -> list[Record]:
        image, label, index = check_evaluation(classifier, batch)
        if not len(index):
            return []
        with Meter(classifier) as meter:
            rows = self._rows(classifier, image, label, Noise.of(one_seed(self), index))
        return _records(self.name, label, index, rows, meter)

    def _rows(self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> list[dict[str, Any]]:
        threat, defence = self._threat(), decided(classifier, self.rule, self.votes)
        control = ask(defence, image, label, noise.stream("control"), self.draws)
        flags = self._flags(defence, image, label, noise.stream("control"), control[0])
        found = self._found(classifier, defence, image, label, noise)
        scored = [
            ask(defence, attempt.adv, label, noise.stream("score"), draws, start)
            for attempt, start, draws in self._attempts(found)
        ]
        moved = threat.random_like(image, found[0].adv, noise.stream("places"))
        random = ask(defence, moved, label, noise.stream("random"), self.draws)
        predictions, correct = scores(torch.cat(scored), label)
        distance = torch.stack([threat.distance(image, attempt.adv) for attempt in found]).amax(0).tolist()
        given = {"within_budget": True, "norm": threat.name, "eps": float(threat.eps), "knows": self.knows}
        given |= {"resubmissions": self.resubmissions, "rule": self.rule, "votes": self.votes}
        columns = (predictions, correct, scores(control, label)[0], scores(random, label)[0], distance)
        names = ("predictions", "correct", "clean_predictions", "random_predictions", "distance")
        rows = [dict(zip(names, row, strict=True)) | given for row in zip(*columns, strict=True)]
        views = pictures(classifier, image, found[0].adv, noise.stream("score"), self.keep_images)
        return [a | b | c | d for a, b, c, d in zip(rows, flags, merge_results(found), views, strict=True)]

    def _threat(self) -> Threat:
        if self.threat is None:
            raise ValueError(f"{self.name!r} has no threat: give it one, or the test that it belongs to")
        return self.threat

    def _attempts(self, found: Sequence[AttackResult]) -> list[tuple[AttackResult, int, int]]:
        """(what was found, first draw, draws) that it is scored on: one for all, or one for each."""
        return [(found[0], 0, self.draws)] if len(found) == 1 else [(f, j, 1) for j, f in enumerate(found)]

    def _found(
        self, classifier: Classifier, defence: Classifier, image: Tensor, label: Tensor, noise: Noise
    ) -> list[AttackResult]:
        """One attack, or one against each of the draws that will be scored."""
        attack = noise.stream("attack")
        if self.knows == "model" or not classifier.randomised:
            return [self._searched(classifier, image, label, attack)]
        score = noise.stream("score")
        return [
            self._searched(KnownNoise(defence, score.draws(1, start=j)), image, label, attack.stream(f"draw {j}"))
            for j in range(self.draws)
        ]

    def _searched(self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> AttackResult:
        threat = self._threat()
        with deployed(classifier), torch.autocast(image.device.type, enabled=False):
            given = (classifier, image.clone(), label.clone(), threat, noise)
            found = self.attack.search(*given) if isinstance(self.attack, Attack) else AttackResult(self.attack(*given))
        adv = found.adv.detach()
        if adv.shape != image.shape or adv.dtype != image.dtype:
            got = f"{adv.dtype} of shape {tuple(adv.shape)} for {image.dtype} of shape {tuple(image.shape)}"
            raise ValueError(f"{self.name!r}: an attack returns images as it got them; it returned {got}")
        allowed = threat.check(image, adv)
        if not bool(allowed.all()):
            distance = threat.distance(image, adv)
            worst = int(torch.where(allowed, -torch.inf, distance.nan_to_num(torch.inf)).argmax())
            raise ValueError(
                f"{self.name!r}: the attack left {threat} on {int((~allowed).sum())} of {len(adv)} images, "
                f"worst at index {int(noise.index[worst])}: distance {float(distance[worst]):.6g}, pixels from "
                f"{float(adv[worst].min()):.6g} to {float(adv[worst].max()):.6g}. Let it end with threat.project."
            )
        return replace(found, adv=adv)

    def _flags(
        self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise, logits: Tensor
    ) -> list[dict[str, Any]]:
        """Signs of masking per image, in pieces no larger than those the attack works in."""
        if not getattr(self.attack, "white_box", True):
            return [{"white_box": False} for _ in label]
        size = getattr(self.attack, "chunk", None) or len(image)
        flags: list[dict[str, Any]] = []
        with deployed(classifier), torch.autocast(image.device.type, enabled=False):
            for begin in range(0, len(image), size):
                rows = slice(begin, begin + size)
                flags += masking_signs(classifier, image[rows], label[rows], noise.rows(rows), logits[rows])
        return [{"white_box": True, **flag} for flag in flags]


@dataclass(frozen=True)
class Certified:
    """Certificates of randomised smoothing, or of another certifier.

    ``prediction`` (-1: abstained), ``radius`` (L2, pixels), what that implies for L-inf, ``radius_linf`` =
    radius / sqrt(D) (for L1 it is the radius itself), ``p_lower``, ``samples``, ``count``, and ``correct`` (right and
    not abstained); bounds are rounded down. ``sound`` is false for a claim that proves nothing, such as a published
    formula that does not hold.
    A ``labelled`` certifier certifies the label's class alone: an image of another class abstains. A predicted verdict
    (`Forecast`) adds ``procedure``, the samples of the procedure, ``undecided`` and ``evaluations``.

    The certifier's preconditions are checked first (`Certifier.check`).
    """

    smoothing: Certifier
    seed: int = 0
    name: str = "certified"
    limit: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.name, self.seed, limit=self.limit)

    def __call__(self, classifier: Classifier, batch: Batch) -> list[Record]:
        image, label, index = check_evaluation(classifier, batch)
        check_labels(label, self.smoothing.num_classes)
        noise = Noise.of(self.seed, index)
        if len(image):
            self.smoothing.check(classifier, image[:1], noise.rows(slice(0, 1)).stream("soundness"))
        with Meter(classifier) as meter, deployed(classifier), torch.autocast(image.device.type, enabled=False):
            about = {"label": label} if self.smoothing.labelled else {}
            certificates = self.smoothing.certify(classifier, image, noise.stream("smoothing"), **about)
        rows = [
            {
                "prediction": c.prediction,
                "radius": rounded_down(c.radius),
                "radius_linf": rounded_down(c.radius / image[0].numel() ** 0.5),
                "p_lower": rounded_down(c.p_lower),
                "samples": c.samples,
                "count": c.count,
                "correct": c.prediction == truth,
                **_optional_values(c),
            }
            for c, truth in zip(certificates, label.tolist(), strict=True)
        ]
        return _records(self.name, label, index, rows, meter)


def _optional_values(certificate: Certificate) -> dict[str, Any]:
    values: dict[str, Any] = {} if certificate.sound else {"sound": False}
    if certificate.procedure is not None:
        values |= {name: getattr(certificate, name) for name in ("procedure", "undecided", "evaluations")}
    return values


def one_seed(evaluator: Clean | Attacked) -> int:
    """The evaluator's seed; ``ValueError`` while it still has several."""
    if not isinstance(evaluator.seed, int):
        raise ValueError(f"{evaluator.name!r} has several seeds: a test makes an evaluator of each (`suite`)")
    return evaluator.seed


def _records(name: str, label: Tensor, index: Tensor, rows: list[dict[str, Any]], meter: Meter) -> list[Record]:
    pairs = zip(index.tolist(), label.tolist(), rows, strict=True)
    return [Record(name, i, y, values, meter.cost(len(rows))) for i, y, values in pairs]


def check_settings(name: str, seed: int | Sequence[int], draws: int = 1, limit: int | None = None) -> None:
    """Raises ``ValueError`` for settings that no evaluator can have."""
    if not name:
        raise ValueError("an evaluator needs a name: it is the key of its records")
    if draws < 1:
        raise ValueError(f"draws must be at least 1; got {draws}")
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if not seeds or not all(0 <= value < 2**63 for value in seeds):
        raise ValueError(f"seed must be in 0 .. 2^63 - 1, one or several; got {seed}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be distinct, else their draws are the same ones; got {seeds}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, or None for all; got {limit}")
