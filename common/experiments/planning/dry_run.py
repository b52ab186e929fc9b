"""Dry run of an evaluator: its own code, with a stand-in for the defence that counts the passes and costs nothing."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common.diffusion.purifiers import DiffusionPurifier
from common.engine.networks import networks
from common.robustness.attacks.surrogates import surrogates
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import Padded

CORRECT = 0  # the class of all images of a dry run


@dataclass(frozen=True)
class Pass:
    """A kind of pass: through the defence, or through a ``surrogate`` inside it, with a ``gradient`` or without one.

    ``modes`` are the differentiation modes of the purifiers at that time. ``views``: the stored images of the defence.
    """

    surrogate: bool
    gradient: bool
    modes: tuple[Any, ...] = ()
    views: bool = False


@dataclass(frozen=True)
class Passes:
    """Rows of each kind of pass, and the rows of its largest call."""

    rows: Mapping[Pass, float]
    largest: Mapping[Pass, int]

    def times(self, factor: float) -> "Passes":
        """The passes of ``factor`` times as many images."""
        return Passes({kind: rows * factor for kind, rows in self.rows.items()}, self.largest)

    def extrapolated(self, further: "Passes", factor: float) -> "Passes":
        """These, and ``factor`` times what ``further`` ones are more than these."""
        rows = {kind: self.rows.get(kind, 0) for kind in further.rows}
        return Passes({k: n + factor * (further.rows[k] - n) for k, n in rows.items()}, further.largest)


def purifiers(classifier: nn.Module) -> list[DiffusionPurifier]:
    """The diffusion purifiers in a classifier."""
    return [part for part in classifier.modules() if isinstance(part, DiffusionPurifier)]


def dry_run(
    evaluator: Evaluator, classifier: Padded, batch: Batch, classes: int, resists: bool, padded: bool = True
) -> Passes:
    """The passes of ``evaluator`` on a batch whose images all resist the attack, or are all misclassified.

    Stored images are left out. ``padded``: rows that only pad a call count. Networks in purifiers do not run, and
    logits are made up.
    """
    image, label, index = batch
    defence = classifier.classifier
    if isinstance(evaluator, Attacked):
        evaluator = replace(evaluator, keep_images=0)
    with _replaced(defence, classes, resists) as passes:
        subject = Padded(defence, classifier.rows) if padded else defence
        evaluator(subject, (image, torch.full_like(label, CORRECT), index))
    rows_of: Counter[Pass] = Counter()
    for kind, count in passes:
        rows_of[kind] += count
    return Passes(rows_of, {kind: max(count for one, count in passes if one == kind) for kind in rows_of})


@contextmanager
def _replaced(defence: Classifier, classes: int, resists: bool) -> Iterator[list[tuple[Pass, int]]]:
    """Replace the forward passes of the defence, and of the networks of its surrogates, while the context lasts."""
    passes: list[tuple[Pass, int]] = []
    parts = purifiers(defence)

    def stand_in(surrogate: bool) -> Callable[..., Tensor]:
        def forward(image: Tensor, *_: Any, **__: Any) -> Tensor:
            modes = () if surrogate else tuple(part.gradient for part in parts)
            gradient = torch.is_grad_enabled() and image.requires_grad
            passes.append((Pass(surrogate, gradient, modes if gradient else ()), len(image)))
            return _logits(image, classes, resists)

        return forward

    inside = [network for source in surrogates(defence) if source is not defence for network in networks(source)]

    modules = [defence, *dict.fromkeys(inside)]
    before = [dict(vars(module)) for module in modules]
    for module in modules:
        vars(module)["forward"] = stand_in(module is not defence)
    try:
        yield passes
    finally:
        for module, held in zip(modules, before, strict=True):
            vars(module).pop("forward")
            vars(module).update({name: value for name, value in held.items() if name == "forward"})


def _logits(image: Tensor, classes: int, resists: bool) -> Tensor:
    """Logits (B,K) with the class `CORRECT` first or last, that depend on every pixel a little."""
    ramp = torch.arange(classes, device=image.device, dtype=image.dtype)
    order = -ramp if resists else ramp
    return order + 1e-3 * image.flatten(1).mean(1, keepdim=True) * (1 + ramp)
