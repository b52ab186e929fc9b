"""Progress within a batch: how many steps of a purification are done."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn


class StepProgress:
    """Moves the prediction's progress bar whenever the module's denoiser is called.

    One purification can take minutes, and a bar that counts batches stands still all that time. The first batch is
    expected to take as many calls as the purifier's grid has steps, every other one as many as the first took.
    """

    def __init__(self, trainer: L.Trainer, module: nn.Module) -> None:
        self.bar = trainer.progress_bar_callback
        self.batch, self.calls = 0, 0
        grids = (part.grid for part in module.modules() if hasattr(part, "grid"))
        self.expected = int(getattr(next(grids, None), "steps", 0))
        named = [name for name, _ in module.named_modules() if name.split(".")[-1] == "denoiser"]
        outer = [name for name in named if not any(name.startswith(f"{other}.") for other in named)]
        self.hooks = [module.get_submodule(name).register_forward_pre_hook(self._called) for name in outer]

    def _called(self, *_: Any) -> None:
        self.calls += 1
        bar = self.bar
        if not isinstance(bar, RichProgressBar) or bar.progress is None or bar.predict_progress_bar_id is None:
            return
        foreseen = self.calls <= self.expected
        text = f"{bar.predict_description} · step {self.calls}" + (f"/{self.expected}" if foreseen else "")
        completed = self.batch + (self.calls - 1) / self.expected if foreseen else None
        bar.progress.update(bar.predict_progress_bar_id, description=text, completed=completed)
        bar.refresh()

    def next_batch(self) -> None:
        """The batch is done."""
        self.expected, self.calls, self.batch = self.calls or self.expected, 0, self.batch + 1

    def remove(self) -> None:
        """Lets go of the denoiser."""
        for hook in self.hooks:
            hook.remove()
