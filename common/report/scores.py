"""Rows of the headline: the numbers of one defence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.records.intervals import Share
from common.records.schema import CertifiedRecord
from common.records.summary import RADIUS_STEP, average, certified_share
from common.report.header import budget, find
from common.report.runs import Budget, Evaluation, Run
from common.report.tables.certification import is_forecast, targets


@dataclass(frozen=True)
class Score:
    """Proportion ``value`` of ``images``, with the ends ``low`` and ``high`` of its exact 95 % interval."""

    value: float
    low: float
    high: float
    images: int

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}, {self.images} images)"

    @classmethod
    def of(cls, share: Share, images: int) -> "Score":
        """Score of a share of so many images."""
        return cls(*share, images)


@dataclass(frozen=True)
class HeadlineRow:
    """Numbers of one defence; a score is None where the records hold nothing for it.

    - ``clean``: accuracy of one query on clean images.
    - ``robust``: accuracy of one query under ``attack``, the worst within the budget ``threat``: `worst_by_budget`.
    - ``worst_draw``: share of images that are correct on all ``draws`` queries under that attack; None for one query.
      Of a deterministic defence, all of whose draws are equal, it is ``robust``.
    - ``certified``: certified accuracy at the L2 ``radius`` in pixels, by ``certifier``; no forecasts, no claims.
    """

    name: str
    clean: Score | None = None
    robust: Score | None = None
    worst_draw: Score | None = None
    certified: Score | None = None
    draws: int = 1
    attack: str = ""
    threat: str = ""
    certifier: str = ""
    radius: float | None = None

    @property
    def images(self) -> list[int]:
        """Numbers of images behind the scores, ascending, each once."""
        return sorted({one.images for one in (self.clean, self.robust, self.certified) if one is not None})


def headline_rows(runs: Sequence[Run], radius: float | None = None) -> list[HeadlineRow]:
    """A row per run. A run that lacks the `main_budget` shows its own.

    Certified accuracies are at ``radius``: by default eps of an L2 budget, else the smallest target radius of the
    certifiers, else 0.25.
    """
    threat = main_budget(runs)
    chosen = _default_radius(runs, threat) if radius is None else radius
    return [_row(run, threat, chosen) for run in runs]


def main_budget(runs: Sequence[Run]) -> Budget | None:
    """The budget that most runs were attacked with, the first of equals; None without attacks."""
    counts = Counter(key for run in runs for key in run.worst_by_budget)
    return max(counts, key=lambda key: counts[key], default=None)


def _default_radius(runs: Sequence[Run], threat: Budget | None) -> float:
    if threat is not None and threat[0] == "L2":
        return threat[1]
    chosen = [targets(one) or [] for run in runs for one in run.certified]
    return min((radius for radii in chosen for radius in radii if radius > 0), default=RADIUS_STEP)


def _row(run: Run, threat: Budget | None, radius: float) -> HeadlineRow:
    row = _certified(HeadlineRow(run.name), run, radius)
    if run.clean:
        row = replace(row, clean=Score.of(run.clean[0].summary.metrics["Avg"], len(run.clean[0].rows)))
    worst = run.worst_by_budget.get(threat) if threat is not None else None
    worst = worst or next(iter(run.worst_by_budget.values()), None)
    if worst is None:
        return row
    images, metrics, first = len(worst.rows), worst.summary.metrics, worst.rows[0]
    if not run.clean:
        control = average(worst.rows, "clean_predictions")
        row = replace(row, clean=Score.of(control, images))
    draws = len(first.predictions)
    share, set_draws = metrics["Avg" if draws == 1 else f"Wor@{draws}"], _set_draws(run) if draws == 1 else draws
    if set_draws > 1:
        row = replace(row, worst_draw=Score.of(share, images), draws=set_draws)
    named = replace(row, attack=worst.title, threat=budget(first.norm, first.eps))
    return replace(named, robust=Score.of(metrics["Avg"], images))


def _set_draws(run: Run) -> int:
    """Number of draws in the settings of the attacks of a deterministic defence, all equal; 1 of a randomised one."""
    randomised = find(run.config.get("classifier"), "randomised") is True
    return 1 if randomised else max((one.part.get("draws") or 1 for one in run.attacked), default=1)


def _certified(row: HeadlineRow, run: Run, radius: float) -> HeadlineRow:
    """The row with the best certified accuracy at a radius, among the certifiers of most images."""
    known = [one for one in run.certified if not is_forecast(one.rows) and _decides(one, radius)]
    if not known:
        return row
    best = max(known, key=lambda one: (len(one.rows), certified_share(one.rows, radius)))
    score = Score.of(certified_share(best.rows, radius), len(best.rows))
    return replace(row, certified=score, certifier=best.title, radius=radius)


def _decides(evaluation: Evaluation[CertifiedRecord], radius: float) -> bool:
    chosen = targets(evaluation)
    return chosen is None or radius in chosen
