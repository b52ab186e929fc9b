"""Quadrature nodes: the noise levels at which a likelihood bound is evaluated."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from common.checks.settings import check_flag, check_one_of, check_optional, check_positive, check_size
from ndc.noise_weights import Weight

NodeRule = Literal["equal", "log", "linspace", "reference"]


@dataclass(frozen=True)
class Nodes:
    """Quadrature of int . d sigma over [sigma_min, sigma_max] (model frame) with ``count`` nodes.

    Args:
        count: nodes per class and draw.
        rule: how the nodes are placed.

            - "equal": the middles of ``count`` equal shares of int density d sigma; for the log-normal weights the
              quantiles (i + 1/2) / count of the log-normal truncated to the range. Second order; best for few nodes.
            - "log": geometric midpoints, equally spaced in ln sigma. Second order.
            - "linspace": the right ends of a uniform grid, a Riemann sum. First order. For EPNDC it is the bound of the
              Markov chain on that grid, see `chain_ratio`.
            - "reference": the inner points of a uniform grid of count + 2, as in the published code, whose 126 points
              are 124 nodes: the last interval is left out. Not for EPNDC.
        sigma_min: lower limit; None is sigma_tau, or the denoiser's smallest level for a clean input.
        sigma_max: upper limit; None is the paper's 3, or 3 sigma_tau if that is more, at most the denoiser's largest.
        antithetic: nodes 2j and 2j+1 use z_j and -z_j, at no cost: terms odd in z nearly cancel between neighbours.
            Near sigma_tau they are most of EPNDC's variance (nine times less in tests/ndc). APNDC gains a quarter to
            two fifths with the small CIFAR-10 denoiser (sigma 0.25, 64 nodes, the closest classes).
        control: EPNDC's control variate, `pull_variate`, for one more network call per class and image; it changes no
            expectation. Without it plain EPNDC is too noisy for `Elimination` to find the class of the full search
            each time. No effect and no cost for variants whose target holds no noise.
    """

    count: int = 16
    rule: NodeRule = "equal"
    sigma_min: float | None = None
    sigma_max: float | None = None
    antithetic: bool = False
    control: bool = True

    def __post_init__(self) -> None:
        check_size("the count of nodes, levels of an integral,", self.count, 2)
        check_one_of("rule", self.rule, get_args(NodeRule))
        check_optional(check_positive, "sigma_min", self.sigma_min)
        check_optional(check_positive, "sigma_max", self.sigma_max)
        check_flag("antithetic", self.antithetic)
        check_flag("control", self.control)

    def place(self, weight: Weight, lower: float, upper: float, skip: int = 0) -> tuple[Tensor, Tensor]:
        """Nodes sigma (count,) ascending in (lower, upper] and widths (count,): int f ~= sum_i width_i f(sigma_i).

        ``skip`` (linspace only): intervals left out at the lower end; the grid is refined to keep ``count`` nodes.
        """
        if not 0 < lower < upper < math.inf:
            raise ValueError(f"nodes need 0 < sigma_min < sigma_max; got sigma_min={lower}, sigma_max={upper}")
        if self.rule == "linspace":
            edges = torch.linspace(lower, upper, self.count + 1 + skip, dtype=torch.float64)
            return edges[1 + skip :], edges.diff()[skip:]
        if self.rule == "reference":
            edges = torch.linspace(lower, upper, self.count + 2, dtype=torch.float64)
            return edges[1:-1], edges.diff()[:-1]
        middle = (torch.arange(self.count, dtype=torch.float64) + 0.5) / self.count
        limits = torch.tensor([lower, upper], dtype=torch.float64)
        if self.rule == "log":
            start, span = limits[0].log(), limits.log().diff()
            sigma = (start + span * middle).exp()
            return sigma, sigma * span / self.count
        start, span = weight.mass(limits)[0], weight.mass(limits).diff()
        sigma = weight.inverse(start + span * middle)
        return sigma, span / self.count / weight.density(sigma)
