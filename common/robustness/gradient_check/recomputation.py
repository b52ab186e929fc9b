"""One forward and backward pass, with a record of the modules that the backward pass recomputes."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.classifiers import Classifier


@dataclass(frozen=True)
class ForwardBackward:
    """Logits (1,K) and the gradient (1,C,H,W) of ``weights . logits`` in the image; None if there is none."""

    logits: Tensor
    gradient: Tensor | None


def forward_backward(
    classifier: Classifier,
    image: Tensor,
    noise: Noise,
    weights: Callable[[Tensor], Tensor],
    before_backward: Callable[[], None] = lambda: None,
) -> ForwardBackward:
    """Forward and backward pass of one image (1,C,H,W), with a callback between the two."""
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_()
        logits = classifier(leaf, noise)
        value = (logits * weights(logits)).sum()
        before_backward()
        gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    return ForwardBackward(logits.detach(), None if gradient is None else gradient.detach())


class RecomputedCalls:
    """Calls of modules in the backward pass, compared with those in the forward pass.

    A tensor is stored as two numbers, its length and one projection. `watch` all modules in one pass to find those that
    are recomputed; `compare` the `outermost` of them in a second pass to see if inputs and outputs agree.
    """

    def __init__(self) -> None:
        self.backward = False
        self.recomputed: set[str] = set()
        self.forward_calls: dict[str, list[Tensor]] = defaultdict(list)
        self.backward_calls: dict[str, list[Tensor]] = defaultdict(list)

    def start_backward(self) -> None:
        """Count all later calls to the backward pass."""
        self.backward = True

    def outermost(self) -> set[str]:
        """Names of recomputed modules that lie in no other recomputed module."""
        return {
            name
            for name in self.recomputed
            if not any(name != other and (not other or name.startswith(f"{other}.")) for other in self.recomputed)
        }

    def error(self) -> float:
        """The largest distance of a call in the backward pass from the nearest one in the forward pass.

        Relative to the length of each input or output tensor; zero if nothing was recomputed.
        """
        return max(
            (
                _distance(call, self.forward_calls[name])
                for name in self.backward_calls
                for call in self.backward_calls[name]
            ),
            default=0,
        )

    @contextmanager
    def watch(self, classifier: nn.Module) -> Iterator[None]:
        """Context manager: store the names of modules that are called in the backward pass."""

        with ExitStack() as stack:
            for name, module in classifier.named_modules():
                stack.callback(module.register_forward_pre_hook(partial(self._add_recomputed, name)).remove)
            yield

    @contextmanager
    def compare(self, classifier: nn.Module, names: set[str]) -> Iterator[None]:
        """Context manager: store inputs and outputs of the modules with these names.

        A recomputation may end before a module returns; it then has no output.
        """

        with ExitStack() as stack:
            for name in names:
                module = classifier.get_submodule(name)
                stack.callback(
                    module.register_forward_pre_hook(partial(self._store_input, name), with_kwargs=True).remove
                )
                stack.callback(module.register_forward_hook(partial(self._store_output, name)).remove)
            yield

    def _add_recomputed(self, name: str, module: nn.Module, args: Any) -> None:
        """Forward pre-hook of the module ``name``."""
        if self.backward:
            self.recomputed.add(name)

    def _store_input(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Forward pre-hook of the module ``name``, with keywords."""
        self._calls[f"input of {name}"].append(_digest((args, kwargs)))

    def _store_output(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the module ``name``."""
        self._calls[f"output of {name}"].append(_digest(output))

    @property
    def _calls(self) -> dict[str, list[Tensor]]:
        """Calls of the pass that is running."""
        return self.backward_calls if self.backward else self.forward_calls


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


@torch.no_grad()
def _digest(values: Any) -> Tensor:
    """Length and projection of each tensor, (T,2) float64."""
    numbers = []
    for tensor in _tensors(values):
        flat = tensor.detach().double().flatten()
        weights = torch.arange(len(flat), dtype=flat.dtype, device=flat.device).cos()
        numbers.append(torch.stack((flat.norm(), flat @ weights)))
    return torch.stack(numbers).cpu() if numbers else torch.zeros(0, 2, dtype=torch.float64)


def _distance(call: Tensor, others: list[Tensor]) -> float:
    """Relative distance to the nearest of the calls with as many tensors; infinite if there is none."""
    alike = [other for other in others if other.shape == call.shape]
    if not alike:
        return torch.inf
    if not len(call):
        return 0.0
    gap = (torch.stack(alike) - call).abs().amax(2) / call[:, 0].clamp(min=1e-12)
    return float(gap.amax(1).min())
