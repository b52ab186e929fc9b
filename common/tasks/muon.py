"""Muon: orthogonalised momentum for convolution kernels, Adam for all other parameters."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.checks.settings import check_number, check_part, check_positive, check_sequence, refusal

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of K. Jordan, "Muon", 2024: five rounds bring singular values in (0,1] near 1."""


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Approximate nearest matrix with orthonormal rows or columns, whichever are fewer: singular values 0.7 to 1.2.

    Newton-Schulz iteration: an odd polynomial of the matrix is the same polynomial of its singular values.
    """
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    result: Tensor = x.T if tall else x
    return result


class Muon(Optimizer):
    """Steps of fixed relative length for convolution kernels before a normalisation, Adam's steps for the rest.

    A kernel is a matrix W with one row per output channel, R rows. Each step first scales W to Frobenius norm √R,
    which a batch norm behind the convolution cancels, and then subtracts ``lr`` times the orthogonalised Nesterov
    momentum, scaled to √R as well: ``lr`` is the length of a step relative to W.

    Parameters
    ----------
    parameters:
        All trained parameters; those with four dimensions are kernels.
    lr:
        Learning rate of kernels.
    momentum:
        Momentum of kernels, in [0,1).
    vector_lr:
        Learning rate of all other parameters.
    betas:
        Adam's decay rates, in [0,1), for all other parameters.

    Raises ``ValueError`` for learning rates that are not positive and finite, and for momenta outside [0,1).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 0.12,
        momentum: float = 0.8,
        vector_lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:
        check_positive("lr", lr)
        check_positive("vector_lr", vector_lr)
        decay = partial(check_number, at_least=0, below=1)
        decay("momentum", momentum)
        if len(check_sequence("betas", betas, decay)) != 2:
            raise ValueError(f"betas must be two numbers; got {betas}")
        if isinstance(parameters, str) or not isinstance(parameters, Iterable):
            raise ValueError(refusal("parameters", "those to train", parameters))
        parameters = check_sequence("parameters", list(parameters), partial(check_part, kind=Tensor))
        kernels = [p for p in parameters if p.ndim == 4]
        vectors = [p for p in parameters if p.ndim != 4]
        groups: list[dict[str, Any]] = [
            {"params": kernels, "lr": lr, "momentum": momentum, "betas": None},
            {"params": vectors, "lr": vector_lr, "momentum": None, "betas": list(betas)},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step. Returns the closure's result, None without a closure."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            update = _update_kernel if group["betas"] is None else _update_vector
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, self.state[parameter], group)
        return result


def _update_kernel(kernel: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    momentum = state.setdefault("momentum", torch.zeros_like(kernel)).mul_(group["momentum"]).add_(gradient)
    nesterov = gradient + group["momentum"] * momentum
    norm = math.sqrt(len(kernel))
    step = orthogonalise(nesterov.flatten(1))
    step *= norm / step.norm().clamp(min=1e-7)
    kernel.mul_(norm / kernel.norm().clamp(min=1e-7)).sub_(group["lr"] * step.view(kernel.shape))


def _update_vector(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Adam with bias correction and eps = 1e-8."""
    first, second = group["betas"]
    state["step"] = state.get("step", 0) + 1
    mean = state.setdefault("mean", torch.zeros_like(parameter)).lerp_(gradient, 1 - first)
    square = state.setdefault("square", torch.zeros_like(parameter)).lerp_(gradient.square(), 1 - second)
    scale = math.sqrt(1 - second ** state["step"]) / (1 - first ** state["step"])
    parameter.addcdiv_(mean, square.sqrt().add_(1e-8), value=-group["lr"] * scale)
