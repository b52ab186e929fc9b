"""Checks of the trainer's settings, made before weights are loaded."""

import inspect
import logging
import re
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, StrategyRegistry

from common.checks.settings import check_count
from common.commands.errors import UsageError
from common.naming.nearest import did_you_mean

COUNTS = (  # 0 of them divides by zero in the first epoch
    "accumulate_grad_batches",
    "check_val_every_n_epoch",
)


def check_trainer(trainer: Any) -> None:
    """Check the settings of the trainer. Raises ``ValueError`` with the option that is wrong.

    A trainer is built from the plain values among them, so that what Lightning refuses is refused at once.
    """
    if not isinstance(trainer, Namespace):
        raise UsageError(f"trainer must be a mapping, lines NAME: VALUE without dashes; got {trainer!r}.")
    check_device(trainer)
    settings = vars(trainer)
    for name in COUNTS:
        if settings.get(name) is not None:
            check_count(f"--trainer.{name}", settings[name])
    plain: dict[str, Any] = {name: value for name, value in settings.items() if isinstance(value, str | int | float)}
    plain["logger"] = False
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        L.Trainer(**plain)
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise refused(error) from error
    finally:
        log.setLevel(level)


def check_device(trainer: Mapping[str, Any] | Namespace) -> None:
    """Check accelerator, devices and strategy. Raises ``ValueError`` if one is unknown or missing."""
    name, devices, strategy = trainer["accelerator"], trainer["devices"], trainer["strategy"]
    known = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if isinstance(name, str) and name not in known:
        advice = did_you_mean(name, known)
        raise ValueError(f"--trainer.accelerator must be one of {', '.join(known)}; got {name!r}.{advice}")
    if isinstance(devices, str) and devices != "auto" and not re.fullmatch(r"-?\d+(,\d*)*", devices):
        raise ValueError(f"--trainer.devices must be a number, a list such as 0,1 or auto; got {devices!r}")
    if name in ("gpu", "cuda", "mps") and not _sees_gpu():
        raise ValueError(f"--trainer.accelerator {name}: torch sees no such device here. Use cpu or auto.")
    on_cpu = name == "cpu" or (name == "auto" and not _sees_gpu())
    if devices == 0 or devices == "0" or (on_cpu and not re.fullmatch(r"auto|[1-9]\d*", str(devices))):
        raise ValueError(f"--trainer.devices must be at least 1, on a CPU a number of processes; got {devices}. Use 1")
    if isinstance(strategy, str) and strategy not in ("auto", *StrategyRegistry.available_strategies()):
        advice = did_you_mean(strategy, ["auto", *StrategyRegistry.available_strategies()])
        raise ValueError(f"--trainer.strategy must be auto, ddp or another of Lightning's; got {strategy!r}.{advice}")


def check_strategy(strategy: Any) -> None:
    """Raise ``ValueError`` for a strategy that writes a checkpoint as a folder of parts, in place of the last one."""
    in_parts = (
        str(strategy).startswith("deepspeed")
        or isinstance(strategy, DeepSpeedStrategy)
        or (isinstance(strategy, FSDPStrategy) and strategy._state_dict_type == "sharded")
        or (isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint)
    )
    if in_parts:
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise ValueError(
            f"--trainer.strategy must write a checkpoint as one file, which replaces the last one as a whole; {name} "
            "writes parts in place. Use ddp, FSDPStrategy with state_dict_type: full, or ModelParallelStrategy with "
            "save_distributed_checkpoint: false."
        )


def refused(error: Exception) -> UsageError:
    """Lightning's reason in one line, with the option to correct: the first one that it names."""
    reason, known = " ".join(str(error).split()).rstrip("."), inspect.signature(L.Trainer).parameters
    named = [word for word in re.findall(r"\w+", reason) if word in known]
    return UsageError(f"{reason}. Correct --trainer.{named[0]}." if named else f"{reason}.")


def _sees_gpu() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()
