"""Images of a training, logged at each validation: the same images with the same noise every time."""

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchvision.utils import make_grid

from common.tasks.training import TrainingTask

IMAGES = 8  # columns of a grid
NAME = "val/images"


class ImageGrids(L.Callback):
    """Log `TrainingTask.image_rows` of the first validation images as one grid, at every validation of ``fit``.

    For loggers that take images: TensorBoard and Weights & Biases. With any other logger nothing is logged. The rows
    are made while the validated weights are in place, averaged ones if there are some.
    """

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *arguments: Any) -> None:
        _, (image, label, index), number, *_ = arguments
        validating = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and trainer.is_global_zero
        if number or not validating or not isinstance(pl_module, TrainingTask):
            return
        loggers = [logger for logger in trainer.loggers if takes_images(logger)]
        rows = pl_module.image_rows((image[:IMAGES], label[:IMAGES], index[:IMAGES])) if loggers else None
        if rows is not None:
            for logger in loggers:
                log_images(logger, NAME, image_grid(rows), trainer.global_step)


def image_grid(rows: Tensor) -> Tensor:
    """Rows of images (R,B,C,H,W) in pixels as one image (3,H',W') in [0,1]."""
    grid: Tensor = make_grid(rows.detach().float().clamp(0, 1).flatten(0, 1).cpu(), nrow=rows.shape[1], pad_value=1.0)
    return grid


def takes_images(logger: Any) -> bool:
    """True for a logger with ``log_image`` (W&B), or whose experiment has ``add_image`` (TensorBoard)."""
    return hasattr(logger, "log_image") or hasattr(logger.experiment, "add_image")


def log_images(logger: Any, name: str, grid: Tensor, step: int) -> None:
    """Log an image (3,H,W) in [0,1] to a logger that takes images."""
    if hasattr(logger, "log_image"):
        logger.log_image(key=name, images=[grid], step=step)
    else:
        logger.experiment.add_image(name, grid, step)
