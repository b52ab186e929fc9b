"""Gradients that attacks take in place of the exact one, measured by their cosine with it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.numerics.finding import ATTACK_GRADIENT, FAITHFUL, Finding
from common.robustness.attacks.through import Through
from common.robustness.attacks.transfer import Transfer
from common.robustness.classifiers import Classifier
from common.robustness.gradient_check.point_check import PointCheck
from common.robustness.gradient_check.recomputation import forward_backward
from common.robustness.protocols import SupportsDifferentiation, SupportsProcessNames

EXACT = ("checkpoint", "full")


def own_gradient(attack: Any) -> Any:
    """Differentiation mode that an attack sets, at any depth of wrappers; None for that of the defence."""
    while attack is not None:
        if isinstance(attack, Through):
            return attack.gradient
        attack = getattr(attack, "attack", None)
    return None


def transfer_source(attack: Any) -> Classifier | None:
    """Classifier whose gradient an attack takes in place of the defence's, at any depth of wrappers; None if none."""
    while attack is not None:
        if isinstance(attack, Transfer):
            return attack.source
        attack = getattr(attack, "attack", None)
    return None


def is_approximate(classifier: Classifier) -> bool:
    """True if a part of a classifier declares its own differentiation approximate."""
    parts = [part for part in classifier.modules() if isinstance(part, SupportsDifferentiation)]
    return any(getattr(getattr(part, "gradient", None), "approximate", False) for part in parts)


def attack_gradient_findings(subject: PointCheck, modes: Sequence[tuple[Any, ...]]) -> Iterator[Finding]:
    """Cosine of the gradient of random logits by each of ``modes``, (name of the attack, mode), with the exact one.

    An entry (name, mode, source) is that of a transfer attack, measured on its source.

    The exact gradient is that of the process that the mode differentiates, with the same noise: on another grid than
    the deployed one, draws differ. A mode of None is that of the defence. A cosine below `FAITHFUL` is an undecided
    finding: the attack is weaker than its name says. Nothing is found for a classifier without a part that can be
    differentiated in another way.
    """
    for name, mode, *source in modes:
        at = replace(subject, classifier=source[0].freeze().to(subject.point.device)) if source else subject
        parts = [part for part in at.classifier.modules() if isinstance(part, SupportsDifferentiation)]
        if not parts:
            continue
        used = _gradient(at, [(part, mode) for part in parts if mode is not None])
        exact = _gradient(at, [(part, _exact(part, mode)) for part in parts])
        cosine = float(torch.nn.functional.cosine_similarity(used.flatten(), exact.flatten(), dim=0))
        process = next((p.process_name(mode) for p in parts if isinstance(p, SupportsProcessNames)), "its process")
        sentence = f"The cosine of the gradient of {name} ({process}) with the exact one is {cosine:.2f}"
        if cosine >= FAITHFUL:
            yield Finding(f"{ATTACK_GRADIENT}{name}", True, 1 - cosine, f"{sentence}.")
        else:
            weak = f"{sentence}, below {FAITHFUL:g}: the attack is weaker than its name says."
            yield Finding.undecided(f"{ATTACK_GRADIENT}{name}", weak, 1 - cosine)


def _exact(part: SupportsDifferentiation, mode: Any) -> Any:
    return part.exact_gradient(mode) if isinstance(part, SupportsProcessNames) else EXACT[0]


def _gradient(subject: PointCheck, modes: Sequence[tuple[SupportsDifferentiation, Any]]) -> Tensor:
    """Gradient of the projected logits, (1,C,H,W) float64, with the parts differentiated by ``modes``."""
    with ExitStack() as stack:
        for part, mode in modes:
            stack.enter_context(part.differentiated(mode))
        gradient = forward_backward(subject.classifier, subject.point, subject.noise, subject.weights).gradient
    return torch.zeros_like(subject.point).double() if gradient is None else gradient.double()
