"""Gradient checks run before an attack: does the classifier's gradient belong to its logits?

Each check has a name, measures an error and returns a sentence on its meaning. Parts that satisfy
`SupportsGradientCheck`, such as diffusion purifiers, add checks of their own, with the inputs of their first call and
their float64 copy. A gradient that is declared approximate (finding "declared gradient") fails no check; the parts
around it are checked with the exact one, by `SupportsDifferentiation`.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from common.checks.settings import check_count, check_part, check_sequence
from common.engine.meter import Meter
from common.engine.precision import float32_products
from common.noise import Noise
from common.numerics.finding import ATTACK_GRADIENT, DECLARED_GRADIENT, DEFENCE
from common.records.schema import GradientCheckRecord
from common.robustness.classifiers import Classifier, deployed
from common.robustness.evaluation.batches import Batch, check_evaluation
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.gradient_check.attack_gradients import attack_gradient_findings
from common.robustness.gradient_check.point_check import FAILURES, PointCheck
from common.robustness.padding import unpadded


@dataclass(frozen=True)
class GradientCheck(Evaluator):
    """Gradient checks of a classifier at single images; one record each.

    - "same noise": the same noise gives the same logits and the same gradient.
    - "declared randomness": other noise gives the same logits, if the classifier is declared deterministic.
    - "attacked as deployed": a pass that records a gradient gives the logits of one that does not.
    - "outputs are logits"; "gradient reaches the image": it exists, is finite, and far from underflow.
    - "recomputed networks": in the backward pass, networks have the inputs and outputs of the forward pass.
    - "finite differences": gradients of the projected logits against central differences of a float64 copy, along
      random ``directions``. "staircase": logits that are piecewise constant. "single precision": the float32 gradient
      agrees with that of float64.
    - "gradient of …": the cosine of the gradients that attacks take in place of the exact one, ``gradients``, and of
      the defence's own where it is declared approximate; below 0.9 it is undecided.
    - "recomputed states", "time grids", "time labels", "full graph", "guidance path", "declared gradient": see
      ``common.diffusion.gradient_check.purifier_checks``.

    A `GradientCheckRecord` holds ``verified`` (nothing failed) and the ``findings``. A purifier of S network
    evaluations costs (9 + 4 ``directions``) S of them per image, and 20 to 200 more, about four steps of PGD with
    EOT 2. cuDNN is deterministic and TF32 off while it runs.
    """

    directions: int = 2
    _: KW_ONLY
    gradients: Sequence[tuple[Any, ...]] = ()
    name: str = "verify"
    limit: int | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("directions", self.directions)
        check_sequence(
            "gradients",
            self.gradients,
            partial(check_part, kind=tuple, what="a tuple (name, mode) or (name, mode, source)"),
            0,
        )

    def __call__(self, classifier: Classifier, batch: Batch) -> list[GradientCheckRecord]:
        image, label, index = check_evaluation(classifier, batch)
        bare = unpadded(classifier)
        noise = Noise.of(self.single_seed, index).stream("verify").to(image.device)
        records = []
        with deployed(bare), deterministic(), torch.autocast(image.device.type, enabled=False):
            double = _doubled(bare)
            for row in range(len(index)):
                rows = slice(row, row + 1)
                with Meter(nn.ModuleList([bare] if double is None else [bare, double])) as meter:
                    subject = PointCheck.at(bare, double, image[rows], noise.rows(rows), self.directions)
                    findings = list(subject.findings(label[rows]))
                    own = [(DEFENCE, None)] if any(one.name == DECLARED_GRADIENT for one in findings) else []
                    findings += attack_gradient_findings(subject, [*own, *self.gradients])
                (common,) = self.record_fields(label[rows], index[rows], meter)
                verified = all(finding.passed for finding in findings)
                records.append(GradientCheckRecord(**common, verified=verified, findings=findings))
        return records


def failure_message(records: Sequence[GradientCheckRecord], accepted: bool = False) -> str:
    """Error message for failed checks, with meaning and remedy; empty if none failed.

    ``accepted``: the test goes on, as the user wants it to.
    """
    failed: dict[str, str] = {}
    for record in records:
        for finding in record.findings:
            if not finding.passed:
                text = f"{finding.sentence} (error {finding.error:.3g} at image {record.index})"
                failed.setdefault(finding.name, text)
    if not failed:
        return ""
    lines = "\n".join(f"- {name}: {text}" for name, text in failed.items())
    remedy = "Fix the defence, or continue with verify: warn, which marks the records."
    return (
        "gradient check failed: attacks by this classifier's gradient would overstate its robustness.\n"
        f"{lines}\n{'The test goes on and marks its records (verify: warn).' if accepted else remedy}"
    )


def weak_gradients(records: Sequence[GradientCheckRecord]) -> str:
    """Warning of attacks whose gradient is far from the exact one, at the first image of each; empty if none is."""
    weak: dict[str, str] = {}
    for record in records:
        for finding in record.findings:
            if finding.name.startswith(ATTACK_GRADIENT) and not finding.decided:
                weak.setdefault(finding.name, f"{finding.sentence} (image {record.index})")
    return "\n".join(weak.values())


@contextmanager
def deterministic() -> Iterator[None]:
    """Context manager: deterministic cuDNN kernels, no benchmarking, no TF32."""
    cudnn: Any = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        with float32_products("32"):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _doubled(classifier: Classifier) -> Classifier | None:
    """A float64 copy; None if it cannot be copied or the device has no float64."""
    try:
        return copy.deepcopy(classifier).double()
    except FAILURES:
        return None
