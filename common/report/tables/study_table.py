"""Results of a study: scores of each combination of settings, and their table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.experiments.study import Study, Values
from common.naming.outside_text import plain
from common.records.intervals import Share
from common.records.summary import certified_share, radius_grid
from common.report.runs import Run
from common.report.tables.accuracy import worst_case_titles
from common.report.tables.certification import targets
from common.report.tables.certification_cost import evaluations
from common.report.tables.table import Entry, Table

EVALUATIONS = "Evaluations per image"


@dataclass(frozen=True)
class Outcome:
    """Scores of one combination by name, on ``n`` images, and its network evaluations per image, if known."""

    case: str
    values: Values
    n: int
    scores: dict[str, Share]
    evaluations: float | None


def outcomes(study: Study, runs: Sequence[Run]) -> list[Outcome]:
    """Outcomes of the runs that have names or titles of combinations, in the order of the study."""
    known = {run.name.rsplit("/", 1)[-1]: run for run in runs} | {run.name: run for run in runs}
    pairs = [(one, known.get(plain(one.title)) or known.get(one.name)) for one in study.combinations]
    return [_outcome(one.case, one.values, run) for one, run in pairs if run is not None and run.results]


def run_outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """Outcomes of runs of which no settings are known: each is a case of its own name."""
    return [_outcome(run.name, (), run) for run in runs if run.results]


def _outcome(case: str, values: Values, run: Run) -> Outcome:
    return Outcome(case, values, max(len(e.rows) for e in run.results), run_scores(run), _evaluations(run))


def run_scores(run: Run) -> dict[str, Share]:
    """Average and worst draw, clean and under each attack, their worst case, per-image minimum; certified accuracy.

    The worst of several clean draws is what as many queries reach without an attack.
    """
    scores: dict[str, Share] = {}
    for clean in run.clean:
        scores |= _of_draws(clean.title, clean.summary.metrics)
    if not scores and run.attacked:
        scores["clean"] = run.attacked[0].summary.metrics["clean Avg"]
    titles = worst_case_titles(run)
    for attack in run.attacked:
        scores |= _of_draws(titles.get(attack.title, attack.title), attack.summary.metrics)
    scores |= {titles[one.title]: one.summary.metrics["Avg"] for one in run.minima}
    for one in run.certified:
        for radius in targets(one) or radius_grid(one.rows):
            scores[f"{one.title} at {radius:g}"] = certified_share(one.rows, radius)
    return scores


def _of_draws(name: str, metrics: Mapping[str, Share]) -> dict[str, Share]:
    worst = {f"{name}, worst of {key[4:]}": share for key, share in metrics.items() if key.startswith("Wor@")}
    return {name: metrics["Avg"]} | worst


def study_table(study: Study, results: Sequence[Outcome]) -> Table:
    """A row per combination."""
    names = score_names(results)
    cases, axes = any(one.case for one in results), [name for name, _ in results[0].values] if results else []
    rows: list[list[Entry]] = [
        [
            *([one.case] if cases else []),
            *(str(value) for _, value in one.values),
            one.n,
            *(one.scores.get(name) for name in names),
            None if one.evaluations is None else f"{one.evaluations:,.0f}",
        ]
        for one in results
    ]
    columns = [*(["Case"] if cases else []), *axes, "Images", *names, EVALUATIONS]
    complete = len(results) >= len(study.combinations)
    notes = [] if complete else [f"{len(results)} of {len(study.combinations)} runs so far."]
    return Table(study.title, columns, rows, names=cases + len(axes), notes=notes)


def score_names(results: Sequence[Outcome]) -> list[str]:
    """Names of the scores of any outcome, in order of appearance."""
    return list(dict.fromkeys(name for one in results for name in one.scores))


def _evaluations(run: Run) -> float | None:
    counts = [evaluations(one.rows) for one in run.certified]
    return None if not counts or any(count is None for count in counts) else max(c for c in counts if c is not None)
