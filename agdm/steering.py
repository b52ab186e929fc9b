"""Variants of guided steps, where AGDM's paper (arXiv 2403.16067) leaves a choice: reference, point, form."""

from dataclasses import dataclass
from typing import Literal, get_args

from common.checks.settings import check_one_of

Reference = Literal["clean", "diffused", "independent"]
At = Literal["x", "mean", "denoised"]
Form = Literal["tweedie", "sigma"]


@dataclass(frozen=True)
class Steering:
    """Reference, point of the gradient, and form of the guidance. The defaults are the cheapest exact choices.

    ``reference``: the image that the state is compared with.

    * "clean": x' at σ = 0, embedded once per purification.
    * "diffused": x' + σ n at the level σ of the state, n being the noise that diffused x'; where the reverse process
      starts the two are the same. Embedded in every step.
    * "independent": the same with other noise, one draw for all steps. (GDMP's code draws it at each step anew.)

    ``at``: the point of the gradient.

    * "x": at the state, by a network trained on noisy images.
    * "mean": at the mean of the ancestral step, at the level where it ends: the point of the Taylor expansion that
      guidance is derived from (Dhariwal and Nichol, arXiv 2105.05233). The same up to O(β).
    * "denoised": at D(x, σ), as at a clean image, and back through the denoiser: g = (∂D/∂x)ᵀ ∇ log-potential(D, 0).
      For a network trained on clean images only, such as an adversarially trained classifier (``AdaptedNetwork``); as
      in DPS (arXiv 2209.14687) and FreeDoM (arXiv 2303.09833). It costs the denoiser's backward pass in every step,
      and under attack its second derivatives.

    ``form``: where the guidance is added.

    * "tweedie": D̂ = D + scale σ² g, ``scale * g`` added to the score; for any solver.
    * "sigma": Σ_t scale ∇_{x_t} added to the mean of the ancestral step, Σ_t the variance of the solver's noise, β_t or
      β̃_t: the paper's. In the last step too, which adds no noise.

    With Σ_t = β_t the forms differ by factors 1 + O(β); β̃_t is smaller by σ²_{t-1}/σ²_t, up to that.
    "mean" and "sigma" are defined for the step of ``Ancestral``, and need that solver.

    Raises ``ValueError`` for other names, and for a diffused reference of a denoised image.
    """

    reference: Reference = "clean"
    at: At = "x"
    form: Form = "tweedie"

    def __post_init__(self) -> None:
        check_one_of("reference", self.reference, get_args(Reference))
        check_one_of("at", self.at, get_args(At))
        check_one_of("form", self.form, get_args(Form))
        if self.at == "denoised" and self.reference != "clean":
            raise ValueError(f'at="denoised" compares clean images, reference="clean"; got {self.reference!r}')

    @property
    def needs_step(self) -> bool:
        """True if the guidance uses the mean or the variance of a step, beyond a guided denoiser."""
        return self.at == "mean" or self.form == "sigma"
