"""Attacks: (classifier, image, label, threat, noise) -> adv, all in pixels.

An attack is not trusted: the evaluator checks the budget of what it returns and predicts again with fresh draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed
from common.robustness.threats.norm_ball import Threat


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns, and what it saw on the way; what it does not know of itself is None.

    - ``adv`` (B,C,H,W) in pixels, and ``loss`` (B,), its value there as the attack measured it.
    - ``queries`` (B,) int64: how often the classifier was asked about an image, every draw counted.
    - ``curve`` (B,T): after 1, …, T rounds of the loop, the share of draws that were classified right at the point that
      would be returned, as the attack itself saw them.
    - ``broken`` (B,) bool: whether any draw at any point was misclassified, which is what an attacker achieves who may
      submit all of them.
    - ``dead`` (B,): share of the steps whose gradient was zero or not finite; near one, it points at a masked gradient.
    """

    adv: Tensor
    loss: Tensor | None = None
    queries: Tensor | None = None
    curve: Tensor | None = None
    broken: Tensor | None = None
    dead: Tensor | None = None


class Attack:
    """Looks for ``adv`` (B,C,H,W) in the threat model around ``image`` at which the classifier leaves ``label`` (B,).

    ``noise`` has one row per image and is the attack's only source of random numbers. A subclass defines ``__call__``,
    or ``search`` where it has more to tell than ``adv``; each is made of the other. ``white_box`` says whether it uses
    gradients of the classifier. Any callable of this signature serves in Python; what YAML names derives from here.
    """

    white_box: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__call__ is Attack.__call__ and cls.search is Attack.search:
            raise TypeError(f"an attack defines __call__ or search; {cls.__name__} defines neither")

    def __call__(self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """``search(...).adv``."""
        return self.search(classifier, image, label, threat, noise).adv

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        """``adv`` with what the attack saw on the way."""
        return AttackResult(self(classifier, image, label, threat, noise))

    def check(self, threat: Threat) -> None:
        """Raises ``ValueError`` if the attack does not serve this threat: asked before any network is loaded."""
        return


@contextmanager
def attacking(classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> Iterator[None]:
    """Where an attack runs: the classifier as deployed, gradients on (whatever the caller set), autocast off.

    Raises ``ValueError`` unless there is a label and a row of noise per image, and ``RuntimeError`` in inference
    mode, in which no gradient can be had.
    """
    if not len(image) == len(label) == len(noise):
        got = f"{len(image)} images, {len(label)} labels, {len(noise)} rows of noise"
        raise ValueError(f"an attack needs a label and a row of noise per image; got {got}")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("an attack needs gradients, but inference mode is on. Use Trainer(inference_mode=False).")
    with deployed(classifier), torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
        yield
