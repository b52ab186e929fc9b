"""The first recorded image of each evaluation, evaluated anew before a test goes on."""

from typing import Any

import torch

from common.robustness.classifiers import Classifier
from common.tasks.recording import RecordedSuite, as_batch
from common.tasks.resuming import check_again, first_recorded, is_finished


def check_first_recorded(recorded: RecordedSuite, classifier: Classifier, images: Any, device: torch.device) -> None:
    """Evaluate the first recorded image anew, on every rank. ``ValueError`` if it gives another row."""
    for evaluator in recorded.evaluators:
        found = first_recorded(recorded.records, evaluator.source, images)
        if found is not None:
            row, example = found
            finished = is_finished(recorded.done[evaluator.source], evaluator.limit, images)
            batch = as_batch([example], device)
            check_again(row, evaluator, classifier, batch, finished, recorded.records.path)
