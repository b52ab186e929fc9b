"""A suite: the evaluators of one test, completed and checked before any network is asked, or even loaded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from common.robustness.attacks.attack import Attack
from common.robustness.evaluation.evaluators import Attacked, Clean, Evaluator
from common.robustness.threats.threat import Threat


def suite(evaluators: Sequence[Evaluator], threat: Threat | None = None) -> list[Evaluator]:
    """The evaluators as they run: with the test's ``threat`` where they name none, and one for each of their seeds.

    An evaluator with several seeds becomes as many, ``name/seed=…``. Raises ``ValueError`` for an empty suite, for
    names that come twice, for an attack without a threat and for one that does not serve its threat.
    """
    ready = [one for evaluator in evaluators for one in _seeds(_aimed(evaluator, threat))]
    names = [evaluator.name for evaluator in ready]
    if not names:
        raise ValueError("a test needs at least one evaluator; got none. See configs/suites for ready ones")
    if again := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"evaluators need distinct names; {', '.join(again)} comes again. Set `name` in init_args")
    return ready


def _aimed(evaluator: Evaluator, threat: Threat | None) -> Evaluator:
    if not isinstance(evaluator, Attacked):
        return evaluator
    aimed = evaluator if evaluator.threat is not None else replace(evaluator, threat=threat)
    if aimed.threat is None:
        raise ValueError(
            f"{evaluator.name!r} attacks without a threat: give the test one (model.init_args.threat: "
            "{class_path: common.robustness.ThreatModel, init_args: {norm: inf, eps: 8/255}}), or the evaluator"
        )
    if isinstance(aimed.attack, Attack):
        aimed.attack.check(aimed.threat)
    return aimed


def _seeds(evaluator: Evaluator) -> list[Evaluator]:
    if not isinstance(evaluator, Attacked | Clean) or isinstance(evaluator.seed, int):
        return [evaluator]
    return [replace(evaluator, seed=seed, name=f"{evaluator.name}/seed={seed}") for seed in evaluator.seed]
