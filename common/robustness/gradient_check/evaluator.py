"""Before a long attack: are the gradients of this very classifier what they claim to be?

Each test has a name, measures an error and says what it means. What only a purifier can tell of itself is asked of it:
a `SupportsGradientCheck` is handed what it was called with, and its
float64 copy. Where a gradient is declared to be approximate ("declared gradient" among what the purifier found),
nothing is held against it; what is around it is tested with the exact one, through the module's ``differentiated``.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import nn

from common.engine.meter import Meter
from common.noise import Noise
from common.records.schema import GradientCheckRecord
from common.robustness.classifiers import Classifier, deployed
from common.robustness.evaluation.batches import Batch, check_evaluation
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.gradient_check.point_check import FAILURES, PointCheck
from common.robustness.padding import unpadded


@dataclass(frozen=True)
class GradientCheck(Evaluator):
    """Tests of a classifier's gradient, at single images; one record each.

    - "same noise": twice the same noise gives twice the same logits and the same gradient.
    - "declared randomness": other noise gives the same logits, if the classifier says that it is deterministic.
    - "attacked as deployed": a pass that records a gradient gives the logits of one that does not.
    - "outputs are logits"; "gradient reaches the image": it is there, finite, and far from underflow.
    - "recomputed networks": what networks are asked and answer in the backward pass, they were and did in the forward
      pass.
    - "finite differences": gradients of the projected logits against central differences of a float64 copy, along
      random ``directions``. "staircase": logits are piecewise constant. "single precision": the float32 gradient is
      that of float64.
    - "recomputed states", "time grids", "time labels", "full graph", "guidance path", "declared gradient": see
      ``common.diffusion.gradient_check.purifier_checks``.

    A `GradientCheckRecord` holds ``verified`` (nothing failed) and the ``findings``. A purifier of S network
    evaluations costs (9 + 4 ``directions``) S of them per image, and 20 to 200 more: what four steps of PGD with EOT 2
    do. cuDNN is deterministic and TF32 off while it runs.
    """

    directions: int = 2
    _: KW_ONLY
    name: str = "verify"
    limit: int | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.directions < 1:
            raise ValueError(f"GradientCheck needs directions >= 1; got {self.directions}")

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
                (common,) = self.record_fields(label[rows], index[rows], meter)
                verified = all(finding.passed for finding in findings)
                records.append(GradientCheckRecord(**common, verified=verified, findings=findings))
        return records


def failure_message(records: Sequence[GradientCheckRecord]) -> str:
    """What failed, what it means and what to do about it; empty if nothing did. Of the records of `GradientCheck`."""
    failed: dict[str, str] = {}
    for record in records:
        for finding in record.findings:
            if not finding.passed:
                text = f"{finding.sentence} (error {finding.error:.3g} at image {record.index})"
                failed.setdefault(finding.name, text)
    if not failed:
        return ""
    lines = "\n".join(f"- {name}: {text}" for name, text in failed.items())
    return (
        "verification failed: attacks by this classifier's gradient would overstate its robustness.\n"
        f"{lines}\nMend the defence, or go on with verify: warn, which marks the records."
    )


@contextmanager
def deterministic() -> Iterator[None]:
    """cuDNN with deterministic kernels, without benchmark, and no TF32, while the context lasts."""
    cudnn: Any = torch.backends.cudnn
    precise: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = (cudnn.deterministic, cudnn.benchmark, [part.fp32_precision for part in precise])
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        for part in precise:
            part.fp32_precision = "ieee"
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before[:2]
        for part, precision in zip(precise, before[2], strict=True):
            part.fp32_precision = precision


def _doubled(classifier: Classifier) -> Classifier | None:
    """A float64 copy; None of what cannot be copied, and where the device knows no float64."""
    try:
        return copy.deepcopy(classifier).double()
    except FAILURES:
        return None
