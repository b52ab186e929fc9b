"""Predicted cost of suites against the defence of a test."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.experiments.planning.planner import Planner
from common.experiments.planning.terms import Term
from common.experiments.suites import NamedSuite
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.suite import suite


@dataclass(frozen=True)
class SuitePlan:
    """Predicted cost of a suite on so many images, without checks and diagnostics."""

    name: str
    images: int
    terms: Sequence[Term]


def plan_suite(name: str, named: NamedSuite, planner: Planner) -> SuitePlan | None:
    """The plan of a suite under the threat of the planner's test; None if that has no attack."""
    attacked = [one for one in planner.load.evaluators if isinstance(one, Attacked)]
    if not attacked:
        return None
    images = named.images or planner.load.images
    return SuitePlan(name, images, planner.counted(suite(named.evaluators, attacked[0].threat), images))
