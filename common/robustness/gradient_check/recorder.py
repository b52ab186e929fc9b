"""A classifier asked once, with its gradient; and what its networks were asked again on the way back."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.classifiers import Classifier


@dataclass(frozen=True)
class ForwardBackward:
    """Logits (1,K) and the gradient (1,C,H,W) of ``weights . logits`` in the image, None if it depends on none."""

    logits: Tensor
    gradient: Tensor | None


def forward_backward(
    classifier: Classifier,
    image: Tensor,
    noise: Noise,
    weights: Callable[[Tensor], Tensor],
    turn_round: Callable[[], None] = lambda: None,
) -> ForwardBackward:
    """The answer to one image (1,C,H,W); ``turn_round`` is called between the forward and the backward pass."""
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_()
        logits = classifier(leaf, noise)
        value = (logits * weights(logits)).sum()
        turn_round()
        gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    return ForwardBackward(logits.detach(), None if gradient is None else gradient.detach())


class RecomputedCalls:
    """Calls of modules: which were made in the backward pass, and with what.

    Tensors are kept as two numbers, their length and one projection. Watching all modules tells who recomputes;
    watching the outermost of these tells whether they see what they saw before.
    """

    def __init__(self) -> None:
        self.backward = False
        self.recomputed: set[str] = set()
        self.seen: tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]] = (defaultdict(list), defaultdict(list))

    def turn_round(self) -> None:
        """The forward pass is over."""
        self.backward = True

    def outermost(self) -> set[str]:
        """Modules that were called in the backward pass and lie in no other one that was."""
        return {
            name
            for name in self.recomputed
            if not any(name != other and (not other or name.startswith(f"{other}.")) for other in self.recomputed)
        }

    def error(self) -> float:
        """The largest difference between a call in the backward pass and the nearest one in the forward pass.

        Relative to the length of each tensor that went in or came out; zero where nothing was recomputed.
        """
        return max(
            (_distance(call, self.seen[0][name]) for name in self.seen[1] for call in self.seen[1][name]), default=0
        )

    @contextmanager
    def counted(self, classifier: nn.Module) -> Iterator[None]:
        """Notes the names of modules that are called in the backward pass."""

        def note(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any) -> None:
                if self.backward:
                    self.recomputed.add(name)

            return hook

        with ExitStack() as stack:
            for name, module in classifier.named_modules():
                stack.callback(module.register_forward_pre_hook(note(name)).remove)
            yield

    @contextmanager
    def compared(self, classifier: nn.Module, names: set[str]) -> Iterator[None]:
        """Keeps what goes into the modules of these names, and what comes out.

        A recomputation may end before a module's last line does: nothing comes out then.
        """

        def take(key: str, *values: Any) -> None:
            self.seen[self.backward][key].append(_digest(values))

        def before(name: str) -> Any:
            return lambda module, args, kwargs: take(f"into {name}", args, kwargs)

        def after(name: str) -> Any:
            return lambda module, args, output: take(f"out of {name}", output)

        with ExitStack() as stack:
            for name in names:
                module = classifier.get_submodule(name)
                stack.callback(module.register_forward_pre_hook(before(name), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after(name)).remove)
            yield


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


def _distance(call: Tensor, known: list[Tensor]) -> float:
    """To the nearest of the calls that had as many tensors."""
    like = [other for other in known if other.shape == call.shape]
    if not like:
        return torch.inf
    if not len(call):
        return 0.0
    gap = (torch.stack(like) - call).abs().amax(2) / call[:, 0].clamp(min=1e-12)
    return float(gap.amax(1).min())
