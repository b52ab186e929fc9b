"""Table of verdicts: certificates at target radii beside the predicted ones of a fixed-n procedure, image by image."""

from collections.abc import Sequence

from common.records.column_rows import common_places
from common.records.columns import Values
from common.records.intervals import share
from common.records.summary import certified
from common.report.runs import Run
from common.report.tables.certification import (
    Certified,
    Pair,
    comparable,
    is_forecast,
    targets,
    undecided,
    unequal_samples,
)
from common.report.tables.table import Cell, Entry, Table, bounds

NOTE = (
    "Of the same evaluation, data, noise and alpha, on the images of both. A verdict is whether the label's class is "
    "certified at the radius. Equal ones are counted apart of those that the forecast predicts as certified and as not "
    "certified, with the exact 95 % interval of their share in percent. A forecast leaves some verdicts open: its "
    "better guess is compared apart."
)


def verdicts_table(runs: Sequence[Run]) -> Table:
    """Per certifier, forecast of the same evaluation, data, noise and alpha, and radius: how many verdicts agree."""
    pairs = [(run, one) for run in runs for one in run.certified]
    forecasts = [(run, one) for run, one in pairs if is_forecast(one.rows)]
    rows: list[list[Entry]] = []
    compared: list[tuple[Pair, Pair]] = []
    for run, one in pairs:
        for other, forecast in forecasts:
            if not is_forecast(one.rows) and comparable(run, one) == comparable(other, forecast):
                names = [f"{run.name} / {other.name}", one.title]
                shared = [radius for radius in targets(forecast) or () if radius in (targets(one) or [radius])]
                counted = [(radius, _agreement(one.rows, forecast.rows, radius)) for radius in shared]
                found = [[*names, f"{radius:g}", *entries] for radius, entries in counted if entries]
                rows += found
                compared += [((run, one), (other, forecast))] if found else []
    columns = ["Images", "Decided", "Equal", "Certified", "Not certified", "Open", "Equal to the guess"]
    notes = [NOTE, *unequal_samples(compared)] if rows else []
    names = ["Defence / forecast", "Evaluation", "Radius"]
    return Table("Verdicts of certifiers, beside forecasts", [*names, *columns], rows, names=len(names), notes=notes)


def _agreement(one: Certified, forecast: Certified, radius: float) -> list[Entry]:
    """Entries of a row, on the images of both; none without any.

    Images; decided verdicts and equal ones; equal of the certified ones and of the others; open verdicts and those
    equal to the forecast's guess.
    """
    ours, theirs = common_places(one, forecast)
    if not len(ours):
        return []
    predicted, still_open = certified(forecast, radius)[theirs], undecided(forecast, radius)[theirs]
    equal, decided = certified(one, radius)[ours] == predicted, ~still_open
    parts = [_equal_of(equal, decided & kind) for kind in (predicted, ~predicted)]
    decided_numbers, open_numbers = ([int(some.sum()), int((equal & some).sum())] for some in (decided, still_open))
    return [len(ours), *decided_numbers, *parts, *open_numbers]


def _equal_of(equal: Values, verdicts: Values) -> Cell | None:
    """Equal ones of some verdicts, and the interval of their share; None without verdicts."""
    number, n = int((equal & verdicts).sum()), int(verdicts.sum())
    return Cell(f"{number} of {n}", bounds(share(number, n))) if n else None
