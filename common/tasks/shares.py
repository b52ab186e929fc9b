"""Shares of a test: the images of this job, hardest first, and what each rank takes of them when it is free."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Any

import lightning as L
import numpy as np

from common.data.shared_loader import SharedLoader
from common.processes.interrupts import INTERRUPTS
from common.processes.ranks import CURRENT
from common.records.column_fields import COSTS
from common.records.notes import noted
from common.records.table import Table
from common.robustness.attacks.draws import Draws
from common.robustness.certification.crew import Crew
from common.robustness.certification.smoothing import Smoothing
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.gradient_check.classifier_check import GradientCheck
from common.robustness.padding import Padded
from common.tasks.engine import EngineOfTest
from common.tasks.parts import WHOLE, Part
from common.tasks.recording import RecordedSuite, dataset_of, test_loader
from common.tasks.remaining import Remaining
from common.tasks.resuming import known_indices

SHARES = 8  # a rank takes at most this part of what would be left for each


@dataclass(frozen=True)
class Work:
    """Images that are left of a test, and the ranks that help each other; None where nobody does."""

    remaining: Remaining
    crew: Crew | None = None

    def leave(self) -> None:
        """Count this rank among those without images, also where a limit of batches ended it."""
        if self.crew is not None:
            self.crew.leave()


def share_images(
    trainer: L.Trainer,
    suites: Sequence[RecordedSuite],
    part: Part,
    classifier: Padded,
    session: str,
    engine: EngineOfTest,
) -> Work:
    """Let every rank take the next images of this job's ``part`` when it is free, hardest first where a cost is known.

    One process that tests all images keeps its batches. Ranks without images help others with certificates and with
    the draws of their attacks, under the ``engine``. Raises
    ``ValueError`` for a part of data that no `SharedLoader` loads.
    """
    loader, images, several = test_loader(trainer), dataset_of(trainer), trainer.world_size > 1
    evaluators, crew = [one for recorded in suites for one in recorded.evaluators], None
    shared = isinstance(loader, SharedLoader)
    if part != WHOLE and not shared:
        raise ValueError(f"--part needs a data module of common.data; got a {type(loader).__name__} of images")
    order = work_order(images, suites, part)
    if several and shared:
        order = trainer.strategy.broadcast(order)
    if shared and (several or part != WHOLE):
        least = least_share(evaluators, classifier.rows, loader.batch_size or 1)
        sizes = share_sizes(len(order), trainer.world_size, loader.batch_size or 1, least)
        crew = _crew(trainer.world_size, session, classifier, evaluators, engine) if several else None
        loader.shares = shares(order, sizes, _claim(several, session), crew.help if crew else None)
    indices = known_indices(images)
    wanted = None if indices is None else {indices[place] for place in order}
    return Work(Remaining(len(order), wanted, session if several else ""), crew)


def _crew(
    ranks: int, session: str, classifier: Padded, evaluators: Sequence[Evaluator], engine: EngineOfTest
) -> Crew | None:
    """The ranks as a crew, where there are certificates or gradients to help with."""
    certified = [one.smoothing for one in evaluators if isinstance(one, Certified)]
    counting = [one for one in certified if isinstance(one, Smoothing)]
    attacked = any(isinstance(one, Attacked) for one in evaluators)
    if not (counting or attacked) or CURRENT.counters is None:
        return None
    crew = Crew(CURRENT.counters, f"crew {session}", ranks, classifier, counting, Draws.read)
    crew.check, crew.alive, crew.gone = INTERRUPTS.check, INTERRUPTS.check_alive, lambda: INTERRUPTS.lost is not None
    crew.fitted = lambda act: engine.fitted(act, "a slice of shared work", classifier)
    return crew


def work_order(images: Any, suites: Sequence[RecordedSuite], part: Part) -> list[int]:
    """Positions of the images that lack a row: the ``part``, dearest first as far as earlier rows tell, then in order.

    Images with notes come before all others: an earlier start worked on them when it was killed.

    Part (k, n) of N images are those at k - 1, k - 1 + n, ….
    """
    positions = range(part[0] - 1, len(images), part[1])
    if (indices := known_indices(images)) is None:
        return list(positions)
    costs: dict[int, float] = {}
    for recorded in suites:
        for rows in Table.of(recorded.records.resumed).parts:
            spent = np.nan_to_num(rows.costs[:, COSTS.index("evaluations")])
            for index, cost in zip(rows.image.tolist(), spent.tolist(), strict=True):
                costs[index] = costs.get(index, 0.0) + cost
    wanted = [place for place in positions if any(recorded.lacks(indices[place]) for recorded in suites)]
    begun = {index for recorded in suites for index in noted(recorded.records.path)}
    return sorted(wanted, key=lambda place: (indices[place] not in begun, -costs.get(indices[place], 0.0)))


def least_share(evaluators: Sequence[Evaluator], rows: int, batch_size: int) -> int:
    """The fewest images that waste nothing: ``rows`` of an attack or a prediction, one of certificates alone.

    An attack whose result depends on its batch keeps whole batches.
    """
    asked = [one for one in evaluators if not isinstance(one, GradientCheck)]
    if any(isinstance(one, Attacked) and not one.attack.by_image for one in asked):
        return batch_size
    attacked = any(isinstance(one, Attacked) for one in asked)
    return 1 if not attacked and any(isinstance(one, Certified) for one in asked) else min(rows, batch_size)


def share_sizes(images: int, ranks: int, batch_size: int, least: int) -> list[int]:
    """Numbers of images that are taken one after the other, fewer at the end, where a rank would be waited for."""
    sizes = []
    while images > 0:
        wanted = batch_size if ranks == 1 else min(batch_size, max(least, images // (SHARES * ranks)))
        sizes.append(min(images, wanted))
        images -= sizes[-1]
    return sizes


def shares(
    order: Sequence[int], sizes: Sequence[int], claim: Callable[[], int], afterwards: Callable[[], None] | None = None
) -> Iterator[Sequence[int]]:
    """Yield the positions of each claimed share until there are none; ``claim`` gives 0, 1, … to all ranks together."""
    ends = [*accumulate(sizes)]
    while (number := claim()) < len(ends):
        yield order[ends[number] - sizes[number] : ends[number]]
    if afterwards is not None:
        afterwards()


def _claim(several: bool, session: str) -> Callable[[], int]:
    counters = CURRENT.counters
    if not several or counters is None:
        return count().__next__
    return lambda: counters.add(f"shares {session}", 1) - 1
