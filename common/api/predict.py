"""Prediction of a smoothed classifier in one call."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from common.api.arguments import Defence, as_classifier
from common.api.evaluate import check_level
from common.api.images import check_images
from common.api.probe import probe
from common.api.running import choose_device
from common.api.untouched import untouched
from common.checks.settings import check_count, check_part
from common.naming.parameters import name_arguments
from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.smoothing import Smoothing


@dataclass(frozen=True)
class Predictions:
    """PREDICT for N images.

    - ``classes`` (N,) int64: the class, or -1 where the smoothed classifier abstains.
    - ``p_values`` (N,) float64: of the test that the two leading classes are equally likely.
    - ``counts`` (N,2) int64: samples of the leading and of the second class, of ``samples`` in all.
    """

    classes: Tensor
    p_values: Tensor
    counts: Tensor
    samples: int

    def __post_init__(self) -> None:
        for name in ("classes", "p_values", "counts"):
            check_part(name, getattr(self, name), Tensor)
        check_count("samples", self.samples)

    @property
    def abstained(self) -> Tensor:
        """True where the smoothed classifier abstains, (N,)."""
        return self.classes == ABSTAIN


@name_arguments
def predict(
    defence: Defence,
    images: Any,
    sigma: float | str = 0.25,
    n: int = 1000,
    alpha: float = 0.001,
    *,
    seed: int = 0,
    batch_size: int = 128,
    accelerator: str = "auto",
    progress: bool = True,
) -> Predictions:
    """Classes of the smoothed classifier, which abstains where its samples do not decide (arXiv 1902.02918).

    A class that is returned is another one than the smoothed classifier's with probability at most ``alpha``, for each
    image. No radius comes with it: that is `certify`.

    Parameters
    ----------
    defence, accelerator, progress:
        As in `evaluate`.
    images:
        Float tensor (N,C,H,W) in [0,1].
    sigma, n, alpha, seed, batch_size:
        Noise level in pixels, samples per image, chance of a wrong class, seed, noisy images at a time.

    Raises ``ValueError`` for arguments of another form.
    """
    if isinstance(sigma, Tensor):
        raise ValueError("predict takes no labels: write predict(defence, images, sigma=0.25)")
    classifier = as_classifier(defence)
    check_level(classifier, sigma)
    arguments = {"sigma": sigma, "n0": 1, "n": n, "alpha": alpha, "batch_size": batch_size}
    Smoothing(**arguments)  # type: ignore[arg-type]  # refuses wrong values before a network runs
    pixels, device = check_images(images), choose_device(classifier, accelerator)
    with ExitStack() as stack:
        stack.enter_context(untouched(classifier))
        classes = probe(classifier.to(device), pixels[:2].to(device))
        smoothing = Smoothing(**arguments, num_classes=classes)  # type: ignore[arg-type]
        noise = Noise.of(seed, torch.arange(len(pixels), device=device))
        smoothing.check(classifier, pixels[:1].to(device), noise.rows(slice(0, 1)).stream("soundness"))
        found = []
        for position in track(range(len(pixels)), "Predicting", disable=not progress):
            rows = slice(position, position + 1)
            found += smoothing.predict(classifier, pixels[rows].to(device), noise.rows(rows).stream("smoothing"))
    return Predictions(
        torch.tensor([one.prediction for one in found]),
        torch.tensor([one.p_value for one in found], dtype=torch.float64),
        torch.tensor([(one.count, one.second) for one in found]),
        n,
    )
