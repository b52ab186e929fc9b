"""Attacks: (classifier, image, label, threat, noise) -> adv, all in pixels.

An attack is not trusted: the evaluator checks the budget of what it returns and predicts again with fresh draws.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed
from common.robustness.threat import ThreatModel


class Attack(ABC):
    """Looks for ``adv`` (B,C,H,W) in the threat model around ``image`` at which the classifier leaves ``label`` (B,).

    ``noise`` has one row per image and is the attack's only source of random numbers. Any callable of this signature
    serves in Python; what YAML names derives from this class.
    """

    @abstractmethod
    def __call__(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: ThreatModel, noise: Noise
    ) -> Tensor: ...


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
