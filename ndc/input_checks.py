"""Checks of a diffusion classifier's arguments that must agree: variant, noise level, classes, sizes."""

import math
from typing import Literal, get_args

from common.checks.settings import check_one_of, check_size
from common.diffusion.denoisers import Denoiser
from ndc.reduction import Reduction

Variant = Literal["apndc", "epndc", "dc"]


def check_input(variant: str, sigma: float) -> None:
    """Raise ``ValueError`` for an unknown variant, or a noise level that it does not read."""
    check_one_of("variant", variant, get_args(Variant))
    if variant == "dc" and sigma != 0:
        raise ValueError(f"variant 'dc' reads a clean image, sigma = 0; got {sigma}. Use 'apndc' for noisy images")
    if variant != "dc" and not 0 < sigma < math.inf:
        raise ValueError(f"variant {variant!r} reads a noisy image and needs its pixel sigma > 0; got {sigma}")


def check_reduction(reduction: Reduction | None, variant: str, unconditional: Denoiser | None) -> None:
    """Raise ``ValueError`` unless a reduction has a first estimate, of a denoiser of its own."""
    if reduction is not None and (variant != "apndc" or unconditional is None):
        got = f"variant {variant!r}" if variant != "apndc" else "unconditional=None"
        raise ValueError(
            "a reduction needs variant 'apndc' and an unconditional denoiser of the larger images, whose estimate is "
            f"reduced; got {got}"
        )


def check_classes(denoiser: Denoiser, num_classes: int) -> None:
    """Raise ``ValueError`` unless the denoiser is conditional on ``num_classes`` classes."""
    check_size("num_classes", num_classes, 2)
    if denoiser.num_classes is None:
        raise ValueError("the denoiser must be class-conditional; its num_classes is None. Train it with labels")
    if denoiser.num_classes != num_classes:
        raise ValueError(f"num_classes must be the denoiser's, {denoiser.num_classes}; got {num_classes}")
