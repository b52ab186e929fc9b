"""One self-contained HTML page: no script, no font and no picture from elsewhere; light and dark, wide and narrow."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.records.store import Summary
from common.report.figures.drawing import Drawn
from common.report.figures.image_grids import Grid
from common.report.header import budget
from common.report.page.markup import aside, details, figure, section, strip, table, text
from common.report.page.style import COMPARING, CONTROLS, CONVERGING, CSS, READING
from common.report.runs import Run, state
from common.report.tables import protocol
from common.report.tables.certification import certification_cost_table, certified_table, claims_table
from common.report.tables.gradients import DECLARATION, findings, gradients
from common.report.tables.scores import class_table, control_table, cost_table, probe_table, seed_table
from common.report.tables.table import Table, accuracy_table, bounds, percent

UNFOLDED = 40  # rows of a table of comparisons that stand open
RESULTS = (accuracy_table, certified_table, claims_table)
VERIFY = "verify: "
SYMBOLS = {"passed": "✓", "failed": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Panel:
    """The grid of pictures of one evaluator of a run."""

    title: str
    grid: Grid


def page(
    runs: Sequence[Run], compared: Sequence[Table], figures: Sequence[Sequence[Drawn]], panels: Sequence[Panel]
) -> str:
    """The page: what was found, what speaks against it, how it was made.

    ``compared`` are tables of paired tests, ``figures`` those of results and those of convergence.
    """
    results, converging = figures
    attacked = any(run.attacks for run in runs)
    matched = control_table(runs)
    pairs = [_folded(found) for found in compared]
    body = [
        _head(runs),
        *_banners(runs),
        section("Results", *(table(make(runs)) for make in RESULTS), *map(figure, results)),
        section("What certificates cost", table(certification_cost_table(runs))),
        section("Compared on the same images", *pairs, COMPARING if any(pairs) else ""),
        section("Has the attack converged?", *map(figure, converging), CONVERGING if converging else ""),
        section("Matched queries", table(matched), table(seed_table(runs)), CONTROLS if matched.rows else ""),
        section("What the images look like", *(strip(panel.title, panel.grid) for panel in panels)),
        section("By class", *(details(run.name, table(class_table(run))) for run in runs)) if attacked else "",
        section("How the numbers were made", *(_protocol(run) for run in runs), table(cost_table(runs))),
        section("Checks for gradient masking, and of the gradients", *map(_checks, runs), table(probe_table(runs))),
        section("How to read the numbers", READING),
    ]
    title = text(", ".join(run.name for run in runs))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        '<meta name="color-scheme" content="light dark" />\n'
        f"<title>Robustness report: {title}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(body)}</main>\n</body>\n</html>\n"
    )


def _folded(found: Table) -> str:
    """A table; a long one unfolds at a click."""
    many = len(found.rows) > UNFOLDED
    return details(f"{found.title}: {len(found.rows)} comparisons", table(found)) if many else table(found)


def _head(runs: Sequence[Run]) -> str:
    counts = sorted({summary.n for run in runs for summary in run.summaries}) or [0]
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    defences = f"{len(runs)} defence{'s' if len(runs) > 1 else ''}"
    return (
        f'<header>\n<p class="brand">robust-diffusion</p>\n<h1>Robustness report</h1>\n<p class="lead">{defences}, '
        f"{images} images each.{_lead(runs)} Every number is computed from the records of the runs.</p>\n</header>\n"
    )


def _lead(runs: Sequence[Run]) -> str:
    """The defence that keeps most under its worst attack, if there is a choice within one budget.

    One with a failed check, or with gradients that are not what they claim or not exact, does not lead.
    """
    found: dict[tuple[str, float], list[tuple[Summary, str]]] = {}
    for run in runs:
        known = gradients(run)
        if all(state(check) != "failed" for check in run.checks) and (known is None or known.state in _LEADING):
            for bound, name in run.worst_names.items():
                summary = next(summary for summary in run.summaries if summary.evaluator == name)
                found.setdefault(bound, []).append((summary, run.name))
    bound, choice = max(found.items(), key=lambda entry: len(entry[1]), default=(("", 0.0), []))
    if len(choice) < 2:
        return ""
    summary, name = max(choice, key=lambda entry: entry[0].metrics["Avg"])
    accuracy = f"{percent(summary.metrics['Avg'][0])} % {bounds(summary.metrics['Avg'])}"
    said = f"Under attack <b>{text(name)}</b> keeps most, {accuracy} of single queries"
    return f" {said} ({text(summary.evaluator)}, {text(budget(*bound))})."


_LEADING = ("exact", "unknown")
_BANNERS = {
    "failed": ("The gradients of these attacks are wrong: the robust accuracies are not to be trusted", ""),
    "approximate": ("Approximate gradients: the robust accuracies are upper bounds", ""),
    "unknown": ("The gradients were not verified", "quiet"),
}


def _banners(runs: Sequence[Run]) -> list[str]:
    """What must be read before the numbers: gradients first, then failed checks, then those that cannot tell."""
    known = [(run.name, found) for run in runs if (found := gradients(run)) is not None]
    parts = [
        aside(title, [(name, said) for name, found in known if found.state == kind for said in found.sentences], look)
        for kind, (title, look) in _BANNERS.items()
    ]
    for kind, title, look in (
        ("failed", "{} failed: read before trusting the numbers", ""),
        ("undecided", "{} could not decide", "quiet"),
    ):
        sentences = [
            (f"{run.name}, {name}", sentence)
            for run in runs
            for name, found, sentence in _checked(run)
            if found == kind and not (name.startswith(VERIFY) and (kind == "failed" or name.endswith(DECLARATION)))
        ]  # a failed verification, and a declared gradient, have a banner of their own
        count = f"{len(sentences)} check{'' if len(sentences) == 1 else 's'}"
        parts.append(aside(title.format(count), sentences, look))
    return parts


def _checked(run: Run) -> Iterator[tuple[str, str, str]]:
    """(name, state, sentence) of every check, and of every test of a verification."""
    for check in run.checks:
        yield check.name, state(check), check.sentence
    for one in findings(run):
        yield f"{VERIFY}{one.name}", one.state, one.sentence


def _protocol(run: Run) -> str:
    defence = protocol.defence(run)
    first = f"<p>Defence: <code>{text(defence)}</code></p>\n" if defence else ""
    listed = table(protocol.protocol_table(run)) or "<p>This run has not recorded any image yet.</p>\n"
    config = text(json.dumps(run.config, indent=1, sort_keys=True, ensure_ascii=False))
    summary = f"Configuration, fingerprint {run.fingerprint[:16]}"
    return (
        f"<article>\n<h3>{text(run.name)}</h3>\n{first}{listed}{details(summary, f'<pre>{config}</pre>')}</article>\n"
    )


def _checks(run: Run) -> str:
    found = list(_checked(run))
    states = [kind for _, kind, _ in found]
    items = "".join(
        f'<li class="{kind}">{SYMBOLS[kind]} <b>{text(name)}.</b> <span>{text(sentence)}</span></li>\n'
        for name, kind, sentence in found
    )
    summary = f"{run.name}: {states.count('passed')} of {len(states)} passed"
    return details(summary, f'<ul class="checks">\n{items}</ul>\n', "failed" in states) if found else ""
