"""Table of verdicts: certificates at target radii beside the predicted ones of a fixed-n procedure, image by image."""

from collections.abc import Sequence

from common.records.column_rows import common_places
from common.records.summary import certified
from common.report.runs import Run
from common.report.tables.certification import (
    Certificates,
    Pair,
    comparable,
    is_forecast,
    targets,
    undecided,
    unequal_samples,
)
from common.report.tables.table import Entry, Table

NOTE = (
    "Of the same evaluation, data, noise and alpha, on the images of both. A verdict is whether the label's class is "
    "certified at the radius. A forecast leaves some open: its better guess is compared apart."
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
                rows += [[*names, f"{radius:g}", *_agreement(one, forecast, radius)] for radius in shared]
                compared.append(((run, one), (other, forecast)))
    columns = ["Defence / forecast", "Evaluation", "Radius", "Images", "Decided", "Equal", "Open", "Equal to the guess"]
    notes = [NOTE, *unequal_samples(compared)] if rows else []
    return Table("Verdicts of certifiers, beside forecasts", columns, rows, names=3, notes=notes)


def _agreement(one: Certificates, forecast: Certificates, radius: float) -> list[Entry]:
    """Images of both; decided verdicts and equal ones; open verdicts and those equal to the forecast's guess."""
    ours, theirs = common_places(one.rows, forecast.rows)
    equal = certified(one.rows, radius)[ours] == certified(forecast.rows, radius)[theirs]
    still_open = undecided(forecast.rows, radius)[theirs]
    masks = ~still_open, equal & ~still_open, still_open, equal & still_open
    return [len(ours), *(int(mask.sum()) for mask in masks)]
