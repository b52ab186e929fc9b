"""Clean and certified evaluation. Every random number comes from ``Noise.of(seed, index)``.

Its streams cannot overlap: ``score`` for the scored draws, ``attack`` for those of an attack, ``control`` and
``random`` for the matched queries beside one, ``smoothing`` for certificates. So nothing in a record depends on how
images were batched, but for the rounding of floats.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from common.checks.images import check_classes
from common.checks.settings import check_part, check_sequence
from common.engine.meter import Meter
from common.noise import Noise
from common.numerics.copies import copied
from common.records.rounding import rounded_down
from common.records.schema import CertifiedRecord, ClaimedRecord, CleanRecord, ForecastRecord, Rule
from common.robustness.certification.certificate import Certificate, Certifier
from common.robustness.classifiers import Classifier, deployed
from common.robustness.evaluation.batches import Batch, check_evaluation
from common.robustness.evaluation.decisions import check_draws, decide, predictions, with_rule
from common.robustness.evaluation.evaluator import Evaluator


@dataclass(frozen=True)
class Clean(Evaluator):
    """Clean accuracy.

    ``draws`` decisions are scored, each by ``rule`` over ``votes`` draws of the defence: "single", "majority" or
    "mean_logit" (`Voting`). A deterministic classifier is evaluated once; ``draws`` and ``votes``
    have no effect.
    """

    draws: int = 1
    rule: Rule = "single"
    votes: int = 1
    _: KW_ONLY
    name: str = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_draws(self.draws, self.rule, self.votes)

    def __call__(self, classifier: Classifier, batch: Batch) -> list[CleanRecord]:
        image, label, index = check_evaluation(classifier, batch)
        if not len(index):
            return []
        with Meter(classifier) as meter:
            noise = Noise.of(self.single_seed, index).stream("score")
            logits = decide(with_rule(classifier, self.rule, self.votes), image, label, noise, self.draws)
        fields = self.record_fields(label, index, meter)
        return [CleanRecord(**common, predictions=p) for common, p in zip(fields, predictions(logits), strict=True)]


@dataclass(frozen=True)
class Certified(Evaluator):
    """Certified accuracy, by randomised smoothing or another certifier.

    Bounds are rounded down: ``radius`` (L2, pixels), ``radius_linf`` = radius / sqrt(D) in L-inf (in L1 it is the
    radius itself) and ``p_lower``. A certifier may test the label's class alone (``labelled``): an image that would be
    certified of another class abstains then. Forecasts are stored as `ForecastRecord`, and claims,
    which are not bounds, as `ClaimedRecord`.

    The certifier checks its preconditions on the first image of a batch (`Certifier.check`).
    """

    smoothing: Certifier
    _: KW_ONLY
    name: str = "certified"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.smoothing, Certifier):
            kind = type(self.smoothing).__name__
            raise ValueError(
                f"smoothing must be a Certifier; got a {kind}. Use Smoothing(...), Sequential(...) or an instance of "
                "a subclass of common.robustness.Certifier"
            )

    def __call__(self, classifier: Classifier, batch: Batch) -> list[CertifiedRecord]:
        image, label, index = check_evaluation(classifier, batch)
        check_classes(label, self.smoothing.num_classes)
        if not len(index):
            return []
        noise = Noise.of(self.single_seed, index)
        self.smoothing.check(classifier, *copied(image[:1], noise.rows(slice(0, 1)).stream("soundness")))
        with Meter(classifier) as meter, deployed(classifier), torch.autocast(image.device.type, enabled=False):
            labelled = {"label": label.clone()} if self.smoothing.labelled else {}
            own_image, own_noise = copied(image, noise.stream("smoothing"))
            certificates = self.smoothing.certify(classifier, own_image, own_noise, **labelled)
        check_sequence("the certificates of a certifier", certificates, _check_certificate, 0)
        if len(certificates) != len(image):
            raise ValueError(f"a certifier returns one Certificate per image, {len(image)}; got {len(certificates)}")
        return _certified_records(self.record_fields(label, index, meter), certificates, image)


def _check_certificate(name: str, value: Certificate) -> Certificate:
    return check_part(name, value, Certificate)


def _certified_records(
    fields: Sequence[dict[str, Any]], certificates: Sequence[Certificate], image: Tensor
) -> list[CertifiedRecord]:
    """Rows of certificates, of forecasts and of claims."""
    root = image[0].numel() ** 0.5
    return [_record(common, one, root) for common, one in zip(fields, certificates, strict=True)]


def _record(common: dict[str, Any], certificate: Certificate, root: float) -> CertifiedRecord:
    """Row of one image with the ``common`` fields of every record; ``root`` = sqrt(D)."""
    bounds: dict[str, Any] = {
        **common,
        "prediction": certificate.prediction,
        "radius": rounded_down(certificate.radius),
        "radius_linf": rounded_down(certificate.radius / root),
        "p_lower": rounded_down(certificate.p_lower),
        "samples": certificate.samples,
        "count": certificate.count,
    }
    if certificate.procedure is not None:
        undecided = list(certificate.undecided)
        return ForecastRecord(
            **bounds, procedure=certificate.procedure, undecided=undecided, evaluations=certificate.evaluations
        )
    return CertifiedRecord(**bounds) if certificate.sound else ClaimedRecord(**bounds)
