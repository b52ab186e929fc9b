"""A recorded image of each evaluation, evaluated anew before a test goes on."""

import lightning as L

from common.robustness.padding import Padded
from common.tasks.engine import EngineOfTest
from common.tasks.first_rank import of_first_rank
from common.tasks.recording import RecordedSuite, as_batch, dataset_of
from common.tasks.resuming import check_same, evaluated_again, is_finished, recorded_example


def check_recorded(
    recorded: RecordedSuite, classifier: Padded, trainer: L.Trainer, session: str, engine: EngineOfTest
) -> None:
    """Evaluate a recorded image of each evaluation anew, on rank 0. ``ValueError`` if it gives another row.

    The other ranks wait.
    """

    def check() -> bytes:
        _check(recorded, classifier, trainer, engine)
        return b""

    of_first_rank(trainer, f"checked {session}", check)


def _check(recorded: RecordedSuite, classifier: Padded, trainer: L.Trainer, engine: EngineOfTest) -> None:
    images = dataset_of(trainer)
    for evaluator in recorded.evaluators:
        found = recorded_example(recorded.records, evaluator.source, images)
        if found is not None:
            row, example = found
            finished = is_finished(recorded.done[evaluator.source], evaluator.limit, images)
            batch = as_batch([example], trainer.strategy.root_device)
            again = evaluated_again(row, evaluator, classifier, batch, finished, engine)
            check_same(row, again, recorded.records.path)
