"""Noise levels of a diffusion classifier, checked against its denoiser's range."""

from common.diffusion.denoisers import Denoiser
from ndc.likelihood import Bound
from ndc.nodes import Nodes
from ndc.noise_weights import ReferenceWeight, Weight

SMALLEST = 0.002  # lower limit of the nodes where neither they nor the denoiser set one: EDM's smallest level


def check_input_level(denoiser: Denoiser, sigma_tau: float) -> None:
    """Raise ``ValueError`` unless an input's noise level (model frame; 0: clean) lies in the denoiser's range."""
    if sigma_tau and not denoiser.sigma_min <= sigma_tau <= denoiser.sigma_max:
        raise ValueError(f"2 sigma, the input's noise level, must lie in {_range(denoiser)}; got {sigma_tau}")


def bound_within(
    denoiser: Denoiser, sigma_tau: float, variant: str, nodes: Nodes, weight: Weight, noise_gain: float = 1.0
) -> Bound:
    """The bound between the limits of ``nodes``; ``noise_gain`` is that of a reduction of the first estimate.

    Raises ``ValueError`` where they leave the denoiser's range, and for the published code's nodes or weight elsewhere.
    """
    _check_reference(variant, nodes, weight)
    low, high = denoiser.sigma_min, denoiser.sigma_max
    lower = nodes.sigma_min if nodes.sigma_min is not None else sigma_tau or low or SMALLEST
    upper = nodes.sigma_max if nodes.sigma_max is not None else min(max(3.0, 3 * sigma_tau), high)
    if lower < sigma_tau * noise_gain:
        left = "" if noise_gain == 1 else f", times {noise_gain:.4g} = {sigma_tau * noise_gain:.4g} after the reduction"
        raise ValueError(f"sigma_min of the nodes must not lie below 2 sigma = {sigma_tau}{left}; got {lower}")
    bound = Bound.of(nodes, weight, lower, upper, sigma_tau if variant == "epndc" else 0.0)
    first, last = bound.sigma[0].item(), bound.sigma[-1].item()
    if first < low or last > high:
        got = f"{first:.4g} .. {last:.4g}"
        raise ValueError(f"the nodes must lie in {_range(denoiser)}; got {got}. Set sigma_min and sigma_max of Nodes")
    return bound


def _check_reference(variant: str, nodes: Nodes, weight: Weight) -> None:
    if nodes.rule == "reference" and (variant == "epndc" or nodes.antithetic):
        got = "antithetic noise" if nodes.antithetic else "EPNDC"
        raise ValueError(f"nodes of the rule 'reference' are the published code's, of DC and APNDC; got {got}")
    if isinstance(weight, ReferenceWeight) and nodes.rule != "reference":
        raise ValueError(
            "the weight 'reference' is the published code's sum over its own nodes; got nodes of the rule "
            f"{nodes.rule!r}. Use Nodes(124, 'reference'), or the weight 'narrow', its log-normal for any nodes"
        )


def _range(denoiser: Denoiser) -> str:
    return f"the denoiser's range {denoiser.sigma_min:g} .. {denoiser.sigma_max:g} (model frame)"
