"""Posterior of a diffusion classifier: prior and temperature."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from common.checks.settings import check_number, check_optional, check_positive, check_sequence


@dataclass(frozen=True)
class Posterior:
    """logit_y = log p(y) - (1 / temperature) sum_i loss_iy.

    Args:
        temperature: None is the weight's own: the paper's D for the training weights, 1 for "elbo".
        log_prior: log p(y), K numbers; None is uniform.

    Raises ``ValueError`` for a temperature that is not positive, and a prior that is not finite.
    """

    temperature: float | None = None
    log_prior: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_optional(check_positive, "temperature", self.temperature, note="None is the weight's own")
        check_optional(check_sequence, "log_prior", self.log_prior, check_number)

    def check(self, num_classes: int) -> None:
        """Raise ``ValueError`` unless the prior has one finite number per class."""
        prior = self.log_prior
        if prior is not None and (len(prior) != num_classes or not all(map(math.isfinite, prior))):
            raise ValueError(f"log_prior must be {num_classes} finite numbers, one per class; got {list(prior)}")

    def prior(self, num_classes: int, like: Tensor) -> Tensor:
        """log p(y) up to a constant, (K,), in the dtype and on the device of ``like``."""
        return like.new_tensor(self.log_prior or [0.0] * num_classes)
