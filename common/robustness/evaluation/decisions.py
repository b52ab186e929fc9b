"""How a defence decides, and what it is asked: fresh decisions on an image, beside matched controls."""

from typing import Literal, get_args

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed
from common.robustness.evaluation.batches import check_labels
from common.robustness.voting import Voting

Rule = Literal["single", "majority", "mean_logit"]


def check_rule(rule: str, votes: int) -> None:
    """Raises ``ValueError`` for a decision rule that is none."""
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}; got {rule!r}")
    if votes < 1 or (rule == "single") != (votes == 1):
        raise ValueError(f'votes must be 1 for rule "single" and at least 2 for a vote; got {votes} for {rule!r}')


def decided(classifier: Classifier, rule: Rule, votes: int) -> Classifier:
    """The classifier as it decides: by a single draw, or by ``rule`` over ``votes`` of them."""
    return classifier if rule == "single" else Voting(classifier, votes, rule)


def ask(classifier: Classifier, image: Tensor, label: Tensor, noise: Noise, draws: int, start: int = 0) -> Tensor:
    """Logits (draws, B, K), one draw at a time: no more memory than the batch needs. Checks the labels against K."""
    draws = draws if classifier.randomised else 1
    answers = []
    with torch.no_grad(), deployed(classifier), torch.autocast(image.device.type, enabled=False):
        for draw in range(start, start + draws):
            logits = classifier(image, noise.draws(1, start=draw))
            if logits.ndim != 2 or len(logits) != len(image):
                got = f"{tuple(logits.shape)} for {len(image)} images"
                raise ValueError(f"a classifier returns logits (B, K); got shape {got}")
            check_labels(label, logits.shape[1])
            if not bool(logits.isfinite().all()):
                where = noise.index[~logits.isfinite().all(1)].tolist()
                raise ValueError(f"the classifier's logits are not finite for the images with index {where[:8]}")
            answers.append(logits)
    return torch.stack(answers)


def scores(logits: Tensor, label: Tensor) -> tuple[list[list[int]], list[list[bool]]]:
    """(draws, B, K) -> predictions and correctness, per image and draw."""
    guess = logits.argmax(-1).T
    return guess.tolist(), (guess == label[:, None]).tolist()
