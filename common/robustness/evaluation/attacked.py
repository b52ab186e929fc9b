"""Robust accuracy: an attack, the check of its budget, and fresh decisions on what it returns.

The noise of the scored decisions is independent of the attack's, unless ``knows="noise"``. The batch and the attack's
result are checked here.
"""

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from common.checks.settings import check_count, check_one_of
from common.engine.meter import Meter
from common.noise import Noise
from common.numerics.copies import copied
from common.records.schema import AttackedRecord, Knowledge, Rule
from common.robustness.attacks.attack import Attack, AttackResult, merge_results
from common.robustness.attacks.function_attack import as_attack
from common.robustness.attacks.global_state import noticed_draws
from common.robustness.attacks.known_noise import KnownNoise
from common.robustness.classifiers import Classifier, deployed
from common.robustness.evaluation.batches import Batch, check_evaluation
from common.robustness.evaluation.decisions import check_draws, decide, predictions, with_rule
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.evaluation.stored_images import stored_images
from common.robustness.masking.signs import masking_signs
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.threats.threat import Threat


@dataclass(frozen=True)
class Attacked(Evaluator):
    """Robust accuracy under an untrusted attack: its budget is checked and its images are classified anew.

    The protocol. ``draws``: N fresh decisions are scored, each by ``rule`` over ``votes`` draws of the defence, as in
    `Clean`; the attack itself works against single draws. ``resubmissions``: M <= N, how often the attacker may submit
    an image. ``knows``: "model" is the defence with all its parts and settings; "noise" also the draws that are
    scored, for each of which an adversarial image is made. ``threat`` None is the test's own.

    Each `AttackedRecord` holds N decisions on the attacked image (one if the defence is deterministic) beside as many
    on the clean image and on a random perturbation of the same size (`Threat.random_like`), under other noise; signs of
    masking (`masking_signs`) for white-box attacks; and for the first ``keep_images`` images the clean, the attacked
    and the classifier's own views of the attacked image, under the noise of the first scored draw.

    An attack that leaves the threat model is a bug, not a result: ``ValueError``, and no record of that batch.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset({"keep_images"})

    attack: Attack
    threat: Threat | None = None
    draws: int = 10
    keep_images: int = 8
    rule: Rule = "single"
    votes: int = 1
    resubmissions: int = 1
    knows: Knowledge = "model"
    _: KW_ONLY
    name: str = "attacked"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "attack", as_attack(self.attack))
        check_draws(self.draws, self.rule, self.votes)
        check_count("keep_images", self.keep_images, 0)
        check_count("resubmissions", self.resubmissions)
        if self.resubmissions > self.draws:
            raise ValueError(
                f"resubmissions M must be in 1 .. draws N = {self.draws}: each is scored; got {self.resubmissions}"
            )
        check_one_of("knows", self.knows, get_args(Knowledge))
        if self.threat is None:
            return
        if not isinstance(self.threat, Threat):
            kind = type(self.threat).__name__
            raise ValueError(f"threat must be a Threat; got a {kind}. Use ThreatModel('inf', '8/255'), for example")
        self.attack.check(self.threat)

    @property
    def uses_gradients(self) -> bool:
        return self.attack.white_box

    @property
    def given_threat(self) -> Threat:
        """The threat. Raises ``ValueError`` while there is none."""
        if self.threat is None:
            raise ValueError(f"{self.name!r} has no threat: give it one, or the test that it belongs to")
        return self.threat

    def __call__(self, classifier: Classifier, batch: Batch) -> list[AttackedRecord]:
        image, label, index = check_evaluation(classifier, batch)
        threat = self.given_threat
        if not len(index):
            return []
        if isinstance(threat, ThreatModel):
            threat.check_dimension(image[0].numel())
        noise, defence = Noise.of(self.single_seed, index), with_rule(classifier, self.rule, self.votes)
        with Meter(classifier) as meter:
            control = self._control(defence, image, label, noise)
            signs = self._masking_signs(defence, image, label, noise.stream("control"), control[0])
            results = self._attack(classifier, defence, image, label, noise)
            scored = self._decide(defence, results, label, noise.stream("score"))
            moved = threat.random_like(*copied(image, results[0].adv, noise.stream("places")))
            random = decide(defence, moved, label, noise.stream("random"), self.draws)
            views = stored_images(classifier, image, results[0].adv, noise.stream("score"), self.keep_images)
        distance = torch.stack([threat.distance(*copied(image, result.adv)) for result in results]).amax(0)
        attacked, clean, perturbed = predictions(scored), predictions(control), predictions(random)
        fields, statistics = self.record_fields(label, index, meter), merge_results(results)
        return [
            AttackedRecord(
                **fields[row],
                **self._protocol(),
                **signs[row],
                **statistics[row],
                predictions=attacked[row],
                clean_predictions=clean[row],
                random_predictions=perturbed[row],
                distance=float(distance[row]),
                images=views[row],
            )
            for row in range(len(index))
        ]

    def clean_predictions(self, classifier: Classifier, batch: Batch) -> list[list[int]]:
        """The decisions on clean images that records hold beside those on attacked ones."""
        image, label, index = check_evaluation(classifier, batch)
        noise, defence = Noise.of(self.single_seed, index), with_rule(classifier, self.rule, self.votes)
        return predictions(self._control(defence, image, label, noise))

    def _control(self, defence: Classifier, image: Tensor, label: Tensor, noise: Noise) -> Tensor:
        return decide(defence, image, label, noise.stream("control"), self.draws)

    def _attack(
        self, classifier: Classifier, defence: Classifier, image: Tensor, label: Tensor, noise: Noise
    ) -> list[AttackResult]:
        """One attack, or one against each of the scored draws."""
        attack = noise.stream("attack")
        if self.knows == "model" or not classifier.randomised:
            return [self._search(classifier, image, label, attack)]
        score = noise.stream("score")
        return [
            self._search(KnownNoise(defence, score.draws(1, start=j)), image, label, attack.stream(f"draw {j}"))
            for j in range(self.draws)
        ]

    def _search(self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> AttackResult:
        """The attack's result on copies of images, labels, threat and noise, within the threat model."""
        own_image, own_label, own_noise = copied(image, label, noise)
        exact, noticed = torch.autocast(image.device.type, enabled=False), noticed_draws(f"the attack {self.name!r}")
        with deployed(classifier), exact, noticed:
            result = self.attack.search(classifier, own_image, own_label, copy.copy(self.given_threat), own_noise)
        result = replace(result, adv=result.adv.detach().clone())
        self._check_budget(image, result.adv, noise)
        return result

    def _check_budget(self, image: Tensor, adv: Tensor, noise: Noise) -> None:
        threat = self.given_threat
        if adv.shape != image.shape or adv.dtype != image.dtype:
            got = f"{adv.dtype} of shape {tuple(adv.shape)} for {image.dtype} of shape {tuple(image.shape)}"
            raise ValueError(f"{self.name!r}: an attack must keep type and shape of its images; it returned {got}")
        allowed = threat.check(*copied(image, adv))
        if not bool(allowed.all()):
            distance = threat.distance(*copied(image, adv))
            worst = int(torch.where(allowed, -torch.inf, distance.nan_to_num(torch.inf)).argmax())
            raise ValueError(
                f"{self.name!r}: the attack left {threat} on {int((~allowed).sum())} of {len(adv)} images, "
                f"worst at index {int(noise.index[worst])}: distance {float(distance[worst]):.6g}, pixels from "
                f"{float(adv[worst].min()):.6g} to {float(adv[worst].max()):.6g}. Let it end with threat.project."
            )

    def _decide(self, defence: Classifier, results: Sequence[AttackResult], label: Tensor, noise: Noise) -> Tensor:
        """Scored decisions: all on one attacked image, or one on each."""
        if len(results) == 1:
            return decide(defence, results[0].adv, label, noise, self.draws)
        return torch.cat([decide(defence, result.adv, label, noise, 1, j) for j, result in enumerate(results)])

    def _masking_signs(
        self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise, logits: Tensor
    ) -> list[dict[str, Any]]:
        """Signs of masking per image, in chunks no larger than those of the attack."""
        if not self.uses_gradients:
            return [{} for _ in label]
        size = self.attack.chunk or len(image)
        signs: list[dict[str, Any]] = []
        with deployed(classifier), torch.autocast(image.device.type, enabled=False):
            for begin in range(0, len(image), size):
                rows = slice(begin, begin + size)
                signs += masking_signs(classifier, image[rows], label[rows], noise.rows(rows), logits[rows])
        return signs

    def _protocol(self) -> dict[str, Any]:
        """Fields of a record that are settings."""
        return {
            "norm": self.given_threat.name,
            "eps": float(self.given_threat.eps),
            "white_box": self.uses_gradients,
            "knows": self.knows,
            "resubmissions": self.resubmissions,
            "rule": self.rule,
            "votes": self.votes,
        }
