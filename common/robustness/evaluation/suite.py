"""Suite: the evaluators of one test, completed and checked before any network is loaded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from common.checks.settings import check_sequence
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.threats.threat import Threat


def suite(evaluators: Sequence[Evaluator], threat: Threat | None = None) -> list[Evaluator]:
    """The evaluators as they run: with the test's ``threat`` where they name none, and one for each of their seeds.

    Raises ``ValueError`` for an empty suite, for entries other than `Evaluator`, for equal names, for an attack
    without a threat, and for an attack that does not support its threat.
    """
    check_sequence("evaluators", evaluators, lambda name, one: one, 0)
    for evaluator in evaluators:
        if not isinstance(evaluator, Evaluator):
            kind = type(evaluator).__name__
            raise ValueError(
                f"entries of a suite (evaluators) must be Evaluators; got a {kind}. Use Clean(), Attacked(...), "
                "Certified(...) or an instance of a subclass of common.robustness.Evaluator"
            )
    ready = [one for evaluator in evaluators for one in _per_seed(_with_threat(evaluator, threat))]
    sources = [evaluator.source for evaluator in ready]
    if not sources:
        raise ValueError("evaluators: a test needs at least one evaluator; got none. See configs/suites for ready ones")
    if again := list(dict.fromkeys(source.evaluator for source, times in Counter(sources).items() if times > 1)):
        raise ValueError(f"evaluators need distinct names; got {', '.join(again)} more than once. Set init_args.name")
    return ready


def _with_threat(evaluator: Evaluator, threat: Threat | None) -> Evaluator:
    if not isinstance(evaluator, Attacked):
        return evaluator
    complete = evaluator if evaluator.threat is not None else replace(evaluator, threat=threat)
    if complete.threat is None:
        raise ValueError(
            f"{evaluator.name!r} attacks without a threat: give the test one (model.init_args.threat: "
            "{class_path: common.robustness.ThreatModel, init_args: {norm: inf, eps: 8/255}}), or the evaluator"
        )
    complete.attack.check(complete.threat)
    return complete


def _per_seed(evaluator: Evaluator) -> list[Evaluator]:
    if isinstance(evaluator.seed, int):
        return [evaluator]
    return [replace(evaluator, seed=seed) for seed in evaluator.seeds]
