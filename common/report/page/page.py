"""The report as one self-contained HTML page: no script, no external font or image; light and dark, wide and narrow."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from common.records.summary import Summary
from common.report.figures.drawing import Figure
from common.report.figures.image_grids import Grid
from common.report.header import budget
from common.report.page.banners import all_checks, banners
from common.report.page.markup import details, figure, section, strip, table, text
from common.report.page.notes import COMPARISONS, CONTROLS, CONVERGENCE, READING
from common.report.page.style import CSS
from common.report.runs import Budget, Run, state
from common.report.tables import protocol
from common.report.tables.accuracy import accuracy_table, class_table, seed_table
from common.report.tables.certification import certification_cost_table, certified_table, claims_table
from common.report.tables.controls import comparison_table, control_table
from common.report.tables.cost import cost_table
from common.report.tables.gradients import gradients
from common.report.tables.table import Table, bounds, percent

UNFOLDED = 40  # longest table of comparisons that is shown unfolded
RESULTS = (accuracy_table, certified_table, claims_table)
SYMBOLS = {"passed": "✓", "failed": "✗", "undecided": "?"}
LEADING = ("exact", "unknown")  # states of the gradients of a run that may be named in the headline


@dataclass(frozen=True)
class Panel:
    """Grid of images of one evaluation of a run."""

    title: str
    grid: Grid


def page(
    runs: Sequence[Run], compared: Sequence[Table], figures: Sequence[Sequence[Figure]], panels: Sequence[Panel]
) -> str:
    """The page: results, caveats, protocol.

    ``compared`` are tables of paired tests, ``figures`` those of results and those of convergence.
    """
    results, converging = figures
    attacked = any(run.attacks for run in runs)
    matched = control_table(runs)
    pairs = [_folded(one) for one in compared]
    body = [
        _header(runs),
        *banners(runs),
        section("Results", *(table(make(runs)) for make in RESULTS), *map(figure, results)),
        section("Cost of certificates", table(certification_cost_table(runs))),
        section("Comparisons on the same images", *pairs, COMPARISONS if any(pairs) else ""),
        section("Convergence of the attacks", *map(figure, converging), CONVERGENCE if converging else ""),
        section("Matched queries", table(matched), table(seed_table(runs)), CONTROLS if matched.rows else ""),
        section("Images", *(strip(panel.title, panel.grid) for panel in panels)),
        section("By class", *(details(run.name, table(class_table(run))) for run in runs)) if attacked else "",
        section("Protocol", *(_protocol(run) for run in runs), table(cost_table(runs))),
        section("Masking checks and gradient checks", *map(_checks, runs), table(comparison_table(runs))),
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


def _folded(shown: Table) -> str:
    """A table; a long one unfolds at a click."""
    many = len(shown.rows) > UNFOLDED
    return details(f"{shown.title}: {len(shown.rows)} comparisons", table(shown)) if many else table(shown)


def _header(runs: Sequence[Run]) -> str:
    counts = sorted({len(evaluation.rows) for run in runs for evaluation in run.results}) or [0]
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    defences = f"{len(runs)} defence{'s' if len(runs) > 1 else ''}"
    return (
        f'<header>\n<p class="brand">robust-diffusion</p>\n<h1>Robustness report</h1>\n<p class="lead">{defences}, '
        f"{images} images each.{_headline(runs)} Every number is computed from the runs' records.</p>\n</header>\n"
    )


def _headline(runs: Sequence[Run]) -> str:
    """The most robust defence under its worst attack, of at least two within one budget.

    A run with a failed check, or with gradients that failed theirs or are approximate, is left out.
    """
    budgets: dict[Budget, list[tuple[Summary, str]]] = {}
    for run in runs:
        known = gradients(run)
        if all(state(check) != "failed" for check in run.checks) and (known is None or known.state in LEADING):
            for key, worst in run.worst_by_budget.items():
                budgets.setdefault(key, []).append((worst.summary, run.name))
    key, choice = max(budgets.items(), key=lambda entry: len(entry[1]), default=(("", 0.0), []))
    if len(choice) < 2:
        return ""
    summary, name = max(choice, key=lambda entry: entry[0].metrics["Avg"])
    accuracy = f"{percent(summary.metrics['Avg'][0])} % {bounds(summary.metrics['Avg'])}"
    sentence = f"<b>{text(name)}</b> has the highest robust accuracy, {accuracy} of single queries"
    return f" {sentence} ({text(summary.source.title)}, {text(budget(*key))})."


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
    checks = list(all_checks(run))
    states = [state(check) for _, check in checks]
    items = "".join(
        f'<li class="{kind}">{SYMBOLS[kind]} <b>{text(name)}.</b> <span>{text(check.sentence)}</span></li>\n'
        for kind, (name, check) in zip(states, checks, strict=True)
    )
    summary = f"{run.name}: {states.count('passed')} of {len(states)} passed"
    return details(summary, f'<ul class="checks">\n{items}</ul>\n', "failed" in states) if checks else ""
