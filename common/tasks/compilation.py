"""The networks of a test that run compiled: decided once for all ranks, starts and jobs of it."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import lightning as L
import torch

from common.checks.bounds import bound
from common.engine.compiled import FORWARD, GRADIENT, Choice
from common.engine.running import compiled_networks
from common.files.locking import in_turn, lock_of
from common.files.replacing import write
from common.noise import Noise
from common.records.schema import Record
from common.robustness.classifiers import deployed
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import Padded
from common.tasks.engine import EngineOfTest
from common.tasks.first_rank import of_first_rank
from common.tasks.recording import first_batch, test_loader

COMPILED = "compiled.json"
"""File beside records: the networks that run compiled."""
TURN = 60.0  # seconds that a job waits for another one that keeps its choice


def settle(
    engine: EngineOfTest,
    classifier: Padded,
    evaluators: Sequence[Evaluator],
    folder: Path,
    trainer: L.Trainer,
    session: str,
) -> None:
    """Decide which networks run compiled. All ranks of a ``session`` call it, and wait for the first.

    Rank 0 evaluates the first batch, with a gradient if the test takes any, and times its networks both ways
    (`Compiled`). A file in the ``folder`` of the records keeps the choice for later starts and other jobs.
    """
    compiled = compiled_networks(classifier.classifier)
    if not compiled:
        return

    def choose() -> bytes:
        choices = known_choices(folder / COMPILED, compiled)
        size = getattr(test_loader(trainer), "batch_size", None) or 1
        batch = None if choices else first_batch(trainer, size, trainer.strategy.root_device)
        if batch is not None:
            with engine.unchanged(classifier):
                engine.evaluate(_Trial(any(one.uses_gradients for one in evaluators)), classifier, batch)
            choices = keep_choices(folder / COMPILED, {place: one.choice for place, one in compiled.items()})
        return json.dumps(choices).encode()

    engine.compiled = json.loads(of_first_rank(trainer, f"compiled {session}", choose))
    for place, one in compiled.items():
        one.settle(engine.compiled.get(place, {}))


class _Trial:
    """Evaluation of a batch without records."""

    name = "the trial of compiled networks"

    def __init__(self, gradients: bool) -> None:
        self.gradients = gradients

    def __call__(self, classifier: Padded, batch: Batch) -> Sequence[Record]:
        image, noise = batch[0], Noise.of(0, batch[2])
        with deployed(classifier), torch.no_grad():
            classifier(image, noise)
        if self.gradients:
            with deployed(classifier), torch.enable_grad():
                torch.autograd.grad(classifier(image.requires_grad_(), noise).sum(), image)
        return []


def known_choices(file: Path, networks: Iterable[str]) -> dict[str, Choice]:
    """The choices that a file keeps of these networks; {} if there are none."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        if not file.is_symlink() and file.stat().st_size <= bound("line"):
            kept = json.loads(file.read_text())
            if kept.keys() == {*networks} and all(
                {*choice} <= {FORWARD, GRADIENT} and all(taken is True or taken is False for taken in choice.values())
                for choice in kept.values()
            ):
                return dict(kept)
    return {}


def keep_choices(file: Path, choices: dict[str, Choice]) -> dict[str, Choice]:
    """Keep choices in a file; those of another job that was faster are returned instead."""
    with suppress(OSError):  # of a folder that cannot be written, which the records refuse
        file.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(file.parent, lock_of(file), TURN):
            if known := known_choices(file, choices):
                return known
            write(file, json.dumps(choices, indent=1), "keep the choice of compiled networks in")
    return choices
