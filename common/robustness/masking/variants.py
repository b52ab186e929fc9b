"""Variants of one attack for the masking checks: other budgets, fewer steps, one draw."""

import math
from dataclasses import replace
from typing import Any

from common.records.masking.checks import HUGE
from common.records.schema import Role
from common.robustness.evaluation.attacked import Attacked
from common.robustness.threats.norm_ball import ThreatModel
from common.units import parse_number

GREY = "grey"  # name of the variant whose budget reaches a grey image
GREY_EXPONENTS = {1.0: 1.0, 2.0: 0.5}  # exponent of the dimension D in the norm of an offset of 1/2 in every pixel


def masking_suite(attacked: Attacked, limit: int = 32, pixels: int | None = None) -> list[Attacked]:
    """Variants of one attack, for comparison with it, on its first ``limit`` images and first draws only:

    - ``eps=…``: twice the budget, and for L-inf one that reaches a grey image from anywhere, 0.5; for L2 and L1
      ``grey``, the same, if ``pixels`` D = C H W is given: sqrt(D)/2 and D/2;
    - ``steps=…``: a quarter of the steps; ``eot=1``: a single draw per step.

    Variants of settings that the attack does not have are left out, and so are variants equal to the attack itself. An
    explicit step size grows with the budget. The variants cost about 2 + 1/4 + 1/eot times the attack on these images.
    Raises ``ValueError`` for an attack without a threat.
    """
    if attacked.threat is None:
        raise ValueError(f"{attacked.name!r} has no threat to vary: give it one, or vary what `suite` returns")
    attack, settings = attacked.attack, attacked.attack.settings()
    variants: dict[str, dict[str, Any]] = {}
    if isinstance(attacked.threat, ThreatModel):
        size = settings.get("step_size")
        for name, threat in _budgets(attacked.threat, pixels).items():
            ratio = threat.eps / attacked.threat.eps
            most = 1.0 if threat.norm == math.inf else math.inf
            varied = attack if size is None else attack.vary(step_size=min(most, ratio * parse_number(size)))
            variants[name] = {"threat": threat, "attack": varied}
    steps, eot = settings.get("steps"), settings.get("eot")
    if steps is not None and steps > 1:
        variants[f"steps={max(1, steps // 4)}"] = {"attack": attack.vary(steps=max(1, steps // 4))}
    if eot is not None and eot > 1:
        variants["eot=1"] = {"attack": attack.vary(eot=1)}
    fewer: dict[str, Any] = {
        "draws": 1,
        "resubmissions": 1,
        "keep_images": 0,
        "limit": min(limit, attacked.limit or limit),
    }
    roles = {name: Role.HUGE_BUDGET if name == GREY else Role.VARIANT for name in variants}
    return [replace(attacked, name=name, role=roles[name], **fewer, **part) for name, part in variants.items()]


def _budgets(threat: ThreatModel, pixels: int | None) -> dict[str, ThreatModel]:
    """Larger threats of the same norm, by the names of their evaluators."""
    huge = HUGE.get(threat.name)
    sizes = {eps: f"eps={eps:.4g}" for eps in (2 * threat.eps, huge) if eps is not None}
    if threat.norm in GREY_EXPONENTS and pixels is not None:
        sizes[0.5 * pixels ** GREY_EXPONENTS[threat.norm]] = GREY
    most = 1.0 if threat.norm == math.inf else math.inf
    return {name: threat.resized(eps) for eps, name in sizes.items() if threat.eps < eps <= most}
