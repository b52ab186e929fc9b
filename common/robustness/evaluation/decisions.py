"""Decision rules, and decisions on fresh draws."""

from functools import partial
from typing import get_args

import torch
from torch import Tensor

from common.checks.deferred import check_values, looked_at_once
from common.checks.images import check_classes, check_logits
from common.checks.settings import check_count, check_one_of
from common.noise import Noise
from common.records.schema import Rule
from common.robustness.classifiers import Classifier, deployed
from common.robustness.voting import Voting


def check_draws(draws: int, rule: str, votes: int) -> None:
    """Raise ``ValueError`` for an unknown decision rule and for impossible numbers of draws or votes."""
    check_count("draws", draws)
    check_one_of("rule", rule, get_args(Rule))
    check_count("votes", votes)
    if (rule == "single") != (votes == 1):
        raise ValueError(f'votes must be 1 for rule "single" and at least 2 for a vote; got {votes} for {rule!r}')


def with_rule(classifier: Classifier, rule: Rule, votes: int) -> Classifier:
    """The classifier with its decision rule: single draws, or ``rule`` over ``votes`` of them."""
    return classifier if rule == "single" else Voting(classifier, votes, rule)


def decide(classifier: Classifier, image: Tensor, label: Tensor, noise: Noise, draws: int, start: int = 0) -> Tensor:
    """Logits (draws, B, K) of decisions ``start``, ``start`` + 1, … on each image; one draw if deterministic.

    One draw of the batch at a time, so that memory does not grow with ``draws``.
    Raises ``ValueError`` for logits of another shape or not finite, and for labels outside 0..K-1.
    """
    draws = draws if classifier.randomised else 1
    decisions: list[Tensor] = []
    exact = torch.autocast(image.device.type, enabled=False)
    with looked_at_once(), torch.no_grad(), deployed(classifier), exact:
        for draw in range(start, start + draws):
            logits = classifier(image, noise.draws(1, start=draw))
            check_logits(logits, len(image))
            if not decisions or logits.shape[1] != decisions[0].shape[1]:
                check_classes(label, logits.shape[1])
            check_values(logits.isfinite().all(1), partial(_check_decided, noise.index))
            decisions.append(logits.clone())  # a defence may return a buffer that its next call overwrites
    return torch.stack(decisions)


def _check_decided(index: Tensor, finite: list[float]) -> None:
    if not all(finite):
        where = [i for i, one in zip(index.tolist(), finite, strict=True) if not one]
        raise ValueError(f"the classifier's logits are not finite for the images with index {where[:8]}")


def predictions(logits: Tensor) -> list[list[int]]:
    """Predicted classes per image and draw, of logits (draws, B, K)."""
    classes: list[list[int]] = logits.argmax(-1).T.tolist()
    return classes
