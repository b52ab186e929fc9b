"""Progress bar of every command: Lightning's rich bar with running accuracies and costs during a test."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.markup import escape

from common.engine.meter import Meter
from common.naming.outside_text import plain
from common.tasks.remaining import Remaining

INTERVAL = 0.5  # seconds between two updates


class LiveProgressBar(RichProgressBar):
    """``RichProgressBar`` of a test with this rank's accuracies so far; Lightning shows metrics in training only.

    It counts the images that all ranks have done, and the time that the others will take (`Remaining`). A batch of
    attacks or certificates may take hours, so the bar also shows the network evaluations of the current batch, and
    their number per second. It goes on while this rank helps others with their certificates.
    """

    _meter: Meter | None = None
    _remaining: Remaining | None = None
    _metrics: tuple[str, ...] = ()

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if not self.is_disabled and self.test_progress_bar_id is not None:
            self._metrics = self._metrics if batch_idx else ()
            work = getattr(pl_module, "work", None)
            self._remaining = getattr(work, "remaining", None)
            if (crew := getattr(work, "crew", None)) is not None:
                crew.watch = self._show_help
            self._begun = self._shown = time.perf_counter()
            self._meter = Meter(pl_module, self._show_cost)
            self._meter.__enter__()

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any, **more: Any) -> None:
        super().on_test_batch_end(trainer, pl_module, *batch, **more)
        if self._meter is None:  # no bar is shown
            return
        self._close_meter()
        metrics = self.get_metrics(trainer, pl_module)
        self._metrics = tuple(
            f"{escape(plain(name))} {value:.1%}" for name, value in metrics.items() if isinstance(value, float)
        )
        self._describe()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close_meter()
        super().on_exception(trainer, pl_module, exception)

    def _close_meter(self) -> None:
        if self._meter is not None:
            self._meter.__exit__()
            self._meter = None

    def _show_cost(self, evaluations: int) -> None:
        now = time.perf_counter()
        if now - self._shown >= INTERVAL:
            self._shown = now
            self._describe(f"{evaluations:,} evaluations, {evaluations / (now - self._begun):,.0f}/s")

    def _show_help(self) -> None:
        """Go on counting while this rank, which has no batch any more, helps others with theirs."""
        if (now := time.perf_counter()) - self._shown >= INTERVAL:
            self._shown = now
            self._describe("helps other ranks")

    def _describe(self, *more: str) -> None:
        if self.test_progress_bar_id is None or self.progress is None:
            return
        counted: dict[str, Any] = {}
        if self._remaining is not None:
            counted = {"completed": self._remaining.done, "total": self._remaining.total}
        left = [] if self._remaining is None else [self._remaining.text]
        text = " · ".join([self.test_description, *left, *self._metrics, *more])
        self.progress.update(self.test_progress_bar_id, description=text, **counted)
        self.refresh()
