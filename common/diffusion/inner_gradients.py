"""Gradients inside a forward pass, such as a guidance's, which an attack differentiates again."""

import torch
from torch import Tensor


def records_gradient(*tensors: Tensor) -> bool:
    """True if grad mode is on and one of the ``tensors`` requires a gradient: an inner gradient then needs a graph."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def as_variable(x: Tensor) -> Tensor:
    """A node of the graph for the partial derivative in x alone, even where other tensors depend on x.

    It stays connected to x where x requires a gradient.
    """
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


def check_gradients_allowed(part: str = "guidance") -> None:
    """Raise ``ValueError`` in inference mode, where no gradient can be taken; ``part`` is the one that needs it."""
    if torch.is_inference_mode_enabled():
        raise ValueError(f"{part} needs gradients: inference mode must be off. Use Trainer(inference_mode=False)")
