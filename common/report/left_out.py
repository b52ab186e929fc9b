"""Attacks that the headline's robust accuracy leaves out, because they ran on fewer images than others."""

from collections.abc import Iterator
from operator import sub

from common.records.column_rows import common_images, on_images
from common.records.schema import AttackedRecord, Role
from common.records.summary import average
from common.report.runs import Evaluation, Run
from common.report.shared_attacks import listed
from common.report.tables.table import percent


def left_out(run: Run) -> Iterator[str]:
    """A sentence for each budget of a run with such attacks, and one for attacks that have no record yet.

    A minimum over attacks on different images would compare unlike sets, so attacks on fewer images do not count, even
    if they are the strongest; an interrupted run has them.
    """
    for key, worst in run.worst_by_budget.items():
        fewer = [
            one
            for one in run.attacks
            if (one.rows[0].norm, one.rows[0].eps) == key
            and one.rows[0].knows == worst.rows[0].knows
            and len(one.rows) < len(worst.rows)
            and len(common_images([one.rows, worst.rows]))
        ]
        if fewer:
            yield _strongest(run, worst, fewer)
    if waiting := _without_records(run):
        yield f"{run.name}: no image was attacked yet by {listed(waiting)}, which may leave fewer correct."


def _strongest(run: Run, worst: Evaluation[AttackedRecord], fewer: list[Evaluation[AttackedRecord]]) -> str:
    """The one that leaves least of its images correct, against the attack of the headline on the same images."""
    one = min(fewer, key=lambda attack: sub(*_accuracies(attack, worst)))
    own, other = _accuracies(one, worst)
    others = f" {len(fewer) - 1} more attacks are left out." if len(fewer) > 1 else ""
    return (
        f"{run.name}: {one.title} does not count, as it has {len(one.rows)} of {len(worst.rows)} images. It leaves "
        f"{percent(own)} % of them correct, {worst.title} {percent(other)} %.{others}"
    )


def _accuracies(*attacks: Evaluation[AttackedRecord]) -> tuple[float, ...]:
    """Accuracy of one query on the images that all attacks have."""
    common = common_images([one.rows for one in attacks])
    return tuple(average(on_images(one.rows, common))[0] for one in attacks)


def _without_records(run: Run) -> list[str]:
    """Titles of the attacks of the header on the defence that have no record; none in a run without attacks."""
    recorded = {attack.source for attack in run.attacks}
    described = {source for source, part in run.described if "attack" in part and source.role is Role.RESULT}
    return [source.title for source in sorted(described - recorded)] if recorded else []
