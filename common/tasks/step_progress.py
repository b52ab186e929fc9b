"""Progress within a batch of predictions: the denoiser calls of its purification so far."""

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn

from common.diffusion.denoisers import Denoiser
from common.diffusion.purifiers import DiffusionPurifier


class StepProgress:
    """Move the progress bar of ``predict`` at every call of the module's denoisers.

    One purification can take minutes, during which a bar that counts batches stands still. The first batch is expected
    to take as many calls as the purifier has steps, every later one as many as the batch before it.
    """

    def __init__(self, trainer: L.Trainer, module: nn.Module) -> None:
        self.bar = trainer.progress_bar_callback
        self.batch, self.calls = 0, 0
        purifiers = [part for part in module.modules() if isinstance(part, DiffusionPurifier)]
        self.expected = purifiers[0].grid.steps if purifiers else 0
        denoisers = {purifier.denoiser for purifier in purifiers} or {*_outermost_denoisers(module)}
        self.hooks = [denoiser.register_forward_pre_hook(self._count) for denoiser in denoisers]

    def _count(self, *_: Any) -> None:
        self.calls += 1
        bar = self.bar
        if not isinstance(bar, RichProgressBar) or bar.progress is None or bar.predict_progress_bar_id is None:
            return
        expected = self.calls <= self.expected
        text = f"{bar.predict_description} · step {self.calls}" + (f"/{self.expected}" if expected else "")
        completed = self.batch + (self.calls - 1) / self.expected if expected else None
        bar.progress.update(bar.predict_progress_bar_id, description=text, completed=completed)
        bar.refresh()

    def next_batch(self) -> None:
        """Start counting the calls of the next batch."""
        self.expected, self.calls, self.batch = self.calls or self.expected, 0, self.batch + 1

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()


def _outermost_denoisers(module: nn.Module) -> Iterator[Denoiser]:
    """The denoisers in ``module`` that are no part of another one."""
    for child in module.children():
        if isinstance(child, Denoiser):
            yield child
        else:
            yield from _outermost_denoisers(child)
