"""Error of an approximate gradient against the exact one."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GradientError:
    """Distance of an approximate gradient from the exact one, per image, (B,) each.

    ``relative`` = |approximate - exact| / |exact| (Euclidean), ``cosine`` between the two, and ``sign_agreement``, the
    share of pixels with the right sign; L-infinity attacks use the sign alone.
    """

    relative: Tensor
    cosine: Tensor
    sign_agreement: Tensor

    @classmethod
    def between(cls, approximate: Tensor, exact: Tensor) -> "GradientError":
        """Error of gradients (B,C,H,W) against the exact ones."""
        a, b = approximate.flatten(1).double(), exact.flatten(1).double()
        cosine = torch.nn.functional.cosine_similarity(a, b)
        return cls((a - b).norm(dim=1) / b.norm(dim=1), cosine, (a.sign() == b.sign()).double().mean(1))
