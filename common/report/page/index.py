"""Page of several studies: the headline of each, with a link to its own page."""

from collections.abc import Sequence

from common.report.headline import headline
from common.report.headline_table import headline_table
from common.report.page.environment import environment
from common.report.studies import RecordedStudy


def index(studies: Sequence[RecordedStudy]) -> str:
    """The page, whose links lead to ``STUDY.html`` beside it."""
    shown = [(one, headline(one.runs)) for one in studies]
    entries = [
        {"name": one.name, "title": one.title, "table": headline_table(known.rows), "remarks": known.remarks}
        for one, known in shown
    ]
    counts = (
        f"{len(studies)} {'study' if len(studies) == 1 else 'studies'} of {sum(len(one.runs) for one in studies)} runs"
    )
    lead = f"{counts}. Every number is computed from the runs' records."
    return (
        environment()
        .get_template("index.html")
        .render(title="studies", heading="Robustness report", lead=lead, studies=entries)
    )
