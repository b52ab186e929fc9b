"""The progress bar of every command: Lightning's rich one, with live figures in a test as well."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class LiveProgressBar(RichProgressBar):
    """``RichProgressBar`` that shows what a test has logged so far, this rank's accuracies, beside its bar.

    Lightning's own shows metrics while training only.
    """

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self.is_disabled or self.test_progress_bar_id is None or self.progress is None:
            return
        metrics = self.get_metrics(trainer, pl_module)
        figures = [f"{name} {value:.1%}" for name, value in metrics.items() if isinstance(value, float)]
        self.progress.update(self.test_progress_bar_id, description=" · ".join([self.test_description, *figures]))
        self.refresh()
