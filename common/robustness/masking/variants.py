"""Evaluators derived from one attack, for the masking checks: other budgets, fewer steps, one draw, no defence."""

import copy
import math
from dataclasses import KW_ONLY, dataclass, fields, is_dataclass, replace
from typing import Any

from torch import nn

from common.records.schema import AttackedRecord, Role
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.masking.checks import HUGE
from common.robustness.threats.norm_ball import ThreatModel
from common.units import parse_number

GREY = "grey"  # name of the variant whose budget reaches a grey image
GREYEST = {1.0: 1.0, 2.0: 0.5}  # exponent of the dimension D in the norm of an offset of 1/2 in every pixel


def masking_suite(attacked: Attacked, limit: int = 32, pixels: int | None = None) -> list[Attacked]:
    """What one attack of a test is compared with (`checks.examine`), on its first ``limit`` images, first draws only:

    - ``eps=…``: twice the budget, and for L-inf one that reaches a grey image from anywhere, 0.5; for L2 and L1
      ``grey``, the same, if ``pixels`` D = C H W is given: sqrt(D)/2 and D/2;
    - ``steps=…``: a quarter of the steps; ``eot=1``: a single draw per step.

    What an attack has no setting for is left out, and so are variants equal to the attack itself. An explicit step size
    grows with the budget. The variants cost about 2 + 1/4 + 1/eot times the attack on these images.
    Raises ``ValueError`` for an attack that has no threat yet.
    """
    if attacked.threat is None:
        raise ValueError(f"{attacked.name!r} has no threat to vary: give it one, or vary what `suite` returns")
    found: dict[str, Attacked] = {}

    def add(name: str, **changes: Any) -> None:
        first = min(limit, attacked.limit or limit)
        role = Role.HUGE_BUDGET if name == GREY else Role.VARIANT
        found[name] = replace(
            attacked, name=name, role=role, draws=1, resubmissions=1, keep_images=0, limit=first, **changes
        )

    if isinstance(attacked.threat, ThreatModel):
        for name, threat in _budgets(attacked.threat, pixels).items():
            ratio = threat.eps / attacked.threat.eps
            step = _get(attacked.attack, "step_size")
            attack = (
                attacked.attack if step is None else _with(attacked.attack, "step_size", ratio * parse_number(step))
            )
            add(name, threat=threat, attack=attack)
    steps, eot = _get(attacked.attack, "steps"), _get(attacked.attack, "eot")
    if steps is not None and steps > 1:
        add(f"steps={max(1, steps // 4)}", attack=_with(attacked.attack, "steps", max(1, steps // 4)))
    if eot is not None and eot > 1:
        add("eot=1", attack=_with(attacked.attack, "eot", 1))
    return list(found.values())


@dataclass(frozen=True)
class Baseline(Evaluator):
    """The same attack on another ``classifier``: without it, on the undefended one behind the purifier.

    Records are those of ``attacked``, with ``baseline``: "undefended", or what ``classifier`` is ``called``, for
    instance "adversarially trained". No records for a defence that has no purifier.
    """

    attacked: Attacked
    classifier: Classifier | None = None
    called: str = "undefended"
    _: KW_ONLY
    name: str = "undefended"
    limit: int | None = 32
    role: Role = Role.BASELINE

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", self.attacked.seed)
        super().__post_init__()

    def __call__(self, classifier: Classifier, batch: Batch) -> list[AttackedRecord]:
        other = undefended(classifier) if self.classifier is None else self.classifier.freeze().to(batch[0].device)
        if other is None:
            return []
        attacked = replace(self.attacked, name=self.name, role=self.role, draws=1, resubmissions=1, keep_images=0)
        return [replace(row, baseline=self.called) for row in attacked(other, batch)]


def undefended(classifier: nn.Module) -> Classifier | None:
    """The classifier behind the purifier, through whatever wraps the two; None where there is no purifier."""
    inner = getattr(classifier, "classifier", None)
    if not isinstance(inner, Classifier):
        return None
    return inner if hasattr(classifier, "purifier") else undefended(inner)


def _budgets(threat: ThreatModel, pixels: int | None) -> dict[str, ThreatModel]:
    """Larger threats of the same norm by the names of their evaluators."""
    huge = HUGE.get(threat.name)
    sizes = {eps: f"eps={eps:.4g}" for eps in (2 * threat.eps, huge) if eps is not None}
    if threat.norm in GREYEST and pixels is not None:
        sizes[0.5 * pixels ** GREYEST[threat.norm]] = GREY
    most = 1.0 if threat.norm == math.inf else math.inf
    return {name: _enlarged(threat, eps) for eps, name in sizes.items() if threat.eps < eps <= most}


def _enlarged(threat: ThreatModel, eps: float) -> ThreatModel:
    """Of a meaningful size already: the bound against units of 0..255 is for what people write."""
    larger = copy.copy(threat)
    larger.eps = eps
    return larger


def _get(attack: Any, setting: str) -> Any:
    """A setting of an attack, or of the attack that it is built around; None if there is none."""
    if not is_dataclass(attack):
        return None
    names = {field.name for field in fields(attack)}
    return getattr(attack, setting) if setting in names else _get(getattr(attack, "attack", None), setting)


def _with(attack: Any, setting: str, value: Any) -> Any:
    names = {field.name for field in fields(attack)}
    if setting in names:
        return replace(attack, **{setting: value})
    return replace(attack, attack=_with(attack.attack, setting, value))
