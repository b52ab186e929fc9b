"""Tables of a study by name, for Markdown: each is a function of its records."""

from collections.abc import Callable

from common.report.headline import headline
from common.report.headline_table import flat_headline
from common.report.markdown import escaped, markdown
from common.report.pairing import Pairing
from common.report.scores import headline_rows
from common.report.studies import RecordedStudy
from common.report.tables.accuracy import accuracy_table, seed_table
from common.report.tables.certification import certified_table, claims_table
from common.report.tables.certification_cost import certification_cost_table
from common.report.tables.comparisons import attack_table, run_table
from common.report.tables.controls import control_table
from common.report.tables.cost import cost_table
from common.report.tables.study_table import study_table
from common.report.tables.table import Table
from common.report.tables.verdicts import verdicts_table

HEADLINE, SCORES, COMPARED = "headline", "scores", "compared"
TABLES: dict[str, Callable[[RecordedStudy], Table]] = {
    HEADLINE: lambda one: flat_headline(headline_rows(one.runs)),
    SCORES: lambda one: study_table(one.study, one.outcomes),
    "accuracy": lambda one: accuracy_table(one.runs),
    "certified": lambda one: certified_table(one.runs),
    "claims": lambda one: claims_table(one.runs),
    COMPARED: lambda one: run_table(one.runs, Pairing()),
    "attacks": lambda one: attack_table(one.runs),
    "controls": lambda one: control_table(one.runs),
    "seeds": lambda one: seed_table(one.runs),
    "certification-cost": lambda one: certification_cost_table(one.runs),
    "verdicts": lambda one: verdicts_table(one.runs),
    "cost": lambda one: cost_table(one.runs),
}
"""Functions by the names of their tables, in the order of a page."""


def markdown_page(study: RecordedStudy, pairing: Pairing) -> str:
    """Title, headline with its remarks, and every other table with rows, as Markdown."""
    parts = [f"# {escaped(study.title or 'Robustness report')}\n", markdown(TABLES[HEADLINE](study))]
    if remarks := [f"* {escaped(sentence)}" for sentence in headline(study.runs).sentences]:
        parts.append("\n".join(remarks) + "\n")
    for name, make in TABLES.items():
        if name == HEADLINE or (name == SCORES and not study.study.combinations):
            continue
        table = run_table(study.runs, pairing) if name == COMPARED else make(study)
        if table.rows:
            title = f"Scores of {study.study.name}, %" if name == SCORES else table.title
            parts.append(f"## {escaped(title)}\n\n{markdown(table)}")
    return "\n".join(parts)
