"""Steps of Lightning's commands: a task that has none is refused, since nothing would happen."""

import inspect
from pkgutil import resolve_name

import lightning as L
from jsonargparse import Namespace

from common.commands.class_names import short_path

STEPS = {
    "fit": "training_step",
    "validate": "validation_step",
    "test": "test_step",
    "predict": "predict_step",
}  # without one, nothing happens


def check_command(command: str, model: Namespace) -> None:
    """Check that the task has the steps of the command. Raises ``ValueError`` with the command that it is for."""
    task, needed = resolve_name(model.class_path), STEPS.get(command)
    if command == "predict" and getattr(task, "forward", None) is not L.LightningModule.forward:
        return  # Lightning's own step calls it
    if needed and inspect.isclass(task) and not _has_step(task, needed):
        name, other = short_path(model.class_path), next((c for c, step in STEPS.items() if _has_step(task, step)), "")
        remedy = f"Use it with: robust-diffusion {other}" if other else "It has no step of any command"
        raise ValueError(f"{name} has no {needed}, which {command} needs. {remedy}")


def _has_step(task: type, step: str) -> bool:
    """True if a task defines a step of Lightning's."""
    return getattr(task, step) is not getattr(L.LightningModule, step)
