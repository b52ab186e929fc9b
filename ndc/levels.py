"""Noise levels of a diffusion classifier, checked against its denoiser's range."""

from common.diffusion.denoisers import Denoiser
from ndc.likelihood import Bound
from ndc.nodes import Nodes
from ndc.noise_weights import Weight

SMALLEST = 0.002  # lower limit of the nodes where neither they nor the denoiser set one: EDM's smallest level


def check_input_level(denoiser: Denoiser, sigma_tau: float) -> None:
    """Raise ``ValueError`` unless an input's noise level (model frame; 0: clean) lies in the denoiser's range."""
    if sigma_tau and not denoiser.sigma_min <= sigma_tau <= denoiser.sigma_max:
        raise ValueError(f"2 sigma, the input's noise level, must lie in {_range(denoiser)}; got {sigma_tau}")


def bound_within(denoiser: Denoiser, sigma_tau: float, variant: str, nodes: Nodes, weight: Weight) -> Bound:
    """The bound between the limits of ``nodes``. Raises ``ValueError`` where they leave the denoiser's range."""
    low, high = denoiser.sigma_min, denoiser.sigma_max
    lower = nodes.sigma_min if nodes.sigma_min is not None else sigma_tau or low or SMALLEST
    upper = nodes.sigma_max if nodes.sigma_max is not None else min(max(3.0, 3 * sigma_tau), high)
    if lower < sigma_tau:
        raise ValueError(f"sigma_min of the nodes must not lie below 2 sigma = {sigma_tau}; got {lower}")
    bound = Bound.of(nodes, weight, lower, upper, sigma_tau if variant == "epndc" else 0.0)
    first, last = bound.sigma[0].item(), bound.sigma[-1].item()
    if first < low or last > high:
        got = f"{first:.4g} .. {last:.4g}"
        raise ValueError(f"the nodes must lie in {_range(denoiser)}; got {got}. Set sigma_min and sigma_max of Nodes")
    return bound


def _range(denoiser: Denoiser) -> str:
    return f"the denoiser's range {denoiser.sigma_min:g} .. {denoiser.sigma_max:g} (model frame)"
