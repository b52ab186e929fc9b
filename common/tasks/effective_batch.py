"""Effective batch of a training on several processes, said in its log beside the learning rate."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info


def tell_effective_batch(trainer: L.Trainer) -> None:
    """Log images per step and learning rate of a training, where a step takes more than one batch.

    The batch size is per process, and gradients are averaged over processes: N of them with batches of B images make
    the steps of one process with batches of N B, at the same learning rate, which is not scaled.
    """
    if text := effective_batch(trainer):
        rank_zero_info(text)


def effective_batch(trainer: L.Trainer) -> str:
    """``2 processes x 50 images = 100 images per step, at learning rate 0.003``; empty for one batch per step."""
    size: Any = getattr(trainer.train_dataloader, "batch_size", None)
    processes, batches = trainer.world_size, trainer.accumulate_grad_batches
    if processes * batches == 1 or not isinstance(size, int):
        return ""
    factors = [f"{processes} processes"] if processes > 1 else []
    factors += [f"{batches} batches"] if batches > 1 else []
    rates = {
        group.get("initial_lr", group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups
    }
    rate = ", ".join(f"{rate:g}" for rate in sorted(rates))
    counted = f"{' x '.join([*factors, f'{size} images'])} = {processes * batches * size} images per step"
    return f"{counted}, at learning rate {rate}, which does not change with their number"
