"""Sentences on what limits the numbers of a report, derived from records, the gravest first."""

import math
from collections.abc import Iterable, Iterator, Sequence

from common.records.column_rows import common_images
from common.records.intervals import Share
from common.records.masking.check import transfers_from_itself
from common.records.paired import Outcomes, paired
from common.records.schema import AttackedRecord
from common.report.draw_remarks import draws, minima
from common.report.header import budget
from common.report.leader import leader
from common.report.left_out import left_out
from common.report.remark import Remark
from common.report.runs import Evaluation, Run, state
from common.report.scores import HeadlineRow, headline_rows
from common.report.shared_attacks import listed
from common.report.tables.gradients import attack_gradient, gradient_note, gradients
from common.report.tables.table import percent

MOST = 5  # sentences
WIDE = 0.1  # width of an interval from which on it is a caveat
AIM = 0.06  # width of an interval that the sentence on images aims at


def remarks(runs: Sequence[Run]) -> list[Remark]:
    """At most five: failed checks, attacks left out, weak attacks, gradients, the most robust, few images, draws."""
    rows = headline_rows(runs)
    found = [
        *_failures(runs),
        *_empty(runs),
        *_left_out(runs),
        *_approximate(runs),
        *_weak(runs),
        *_transfer(runs),
        *_unknown(runs),
        *_unequal(runs, rows),
        *_leader(runs),
        *_images(rows),
        *_undecided(runs),
        *draws(runs, rows),
        *minima(runs),
        *_bounds(rows),
    ]
    return found[:MOST]


def _failures(runs: Sequence[Run]) -> Iterator[Remark]:
    """A sentence for each of the first two runs with failed checks, one for all others."""
    failing = [(run.name, words) for run in runs if (words := _failed(run))]
    for name, words in failing[: 2 if len(failing) <= 2 else 1]:
        yield Remark("failed", f"{name}: {words}")
    if len(failing) > 2:
        names = ", ".join(name for name, _ in failing[1:])
        yield Remark(
            "failed", f"{len(failing) - 1} more have failed checks, so their numbers may be too high: {names}."
        )


def _failed(run: Run) -> str:
    known = gradients(run)
    if known is not None and known.state == "failed":
        return f"the gradient check failed, so the robust accuracy is only an upper bound. {known.sentences[0]}"
    failed = [check for check in run.checks if state(check) == "failed"]
    if not failed:
        return ""
    more = f" {len(failed) - 1} more failed." if len(failed) > 1 else ""
    return f"the numbers may be too high, a masking check failed: {failed[0].name}. {failed[0].sentence}{more}"


def _empty(runs: Sequence[Run]) -> Iterator[Remark]:
    if names := [run.name for run in runs if not run.records]:
        yield Remark("warning", f"No image recorded yet: {', '.join(names)}.")


def _left_out(runs: Sequence[Run]) -> Iterator[Remark]:
    yield from (Remark("warning", sentence) for run in runs for sentence in left_out(run))


def _approximate(runs: Sequence[Run]) -> Iterator[Remark]:
    names = [run.name for run in runs if (known := gradients(run)) is not None and known.state == "approximate"]
    if names:
        yield Remark("warning", f"Upper bounds, as the attacks use an approximate gradient: {', '.join(names)}.")


def _weak(runs: Sequence[Run]) -> Iterator[Remark]:
    """Attacks by a gradient that is far from the exact one."""
    named = [
        f"{run.name}, {attack.title} ({gradient_note(run, attack)})"
        for run in runs
        for attack in run.attacks
        if (finding := attack_gradient(run, attack)) is not None and not finding.decided
    ]
    if named:
        yield Remark("warning", f"Weak attacks, by a gradient that is far from the exact one: {'; '.join(named)}.")


def _transfer(runs: Sequence[Run]) -> Iterator[Remark]:
    """White-box attacks that break no more than an attack without the defence's gradient."""
    for run in runs:
        for key in run.worst_by_budget:
            attacks = [attack for attack in run.attacks if (attack.rows[0].norm, attack.rows[0].eps) == key]
            white = _strongest(attack for attack in attacks if attack.rows[0].white_box)
            black = _strongest(
                attack
                for attack in attacks
                if not attack.rows[0].white_box and not transfers_from_itself(attack.part, run.config)
            )
            if white is None or black is None or not len(common_images([white.rows, black.rows])):
                continue
            test = paired(_outcomes(white), _outcomes(black))
            if test.difference >= 0:
                sign = "a sign" if test.low > 0 else "perhaps a sign"
                yield Remark(
                    "warning",
                    f"{run.name}: the white-box attack {white.title} leaves {percent(test.first)} % correct and the "
                    f"black-box attack {black.title} {percent(test.second)} %, {sign} of masked gradients.",
                )


def _strongest(attacks: Iterable[Evaluation[AttackedRecord]]) -> Evaluation[AttackedRecord] | None:
    return min(attacks, key=lambda attack: attack.summary.metrics["Avg"][0], default=None)


def _unknown(runs: Sequence[Run]) -> Iterator[Remark]:
    names = [run.name for run in runs if (known := gradients(run)) is not None and known.state == "unknown"]
    if names:
        yield Remark("warning", f"The gradients were not verified: {', '.join(names)}.")


def _leader(runs: Sequence[Run]) -> Iterator[Remark]:
    found = leader(runs)
    if found is None:
        return
    order, shared = found
    if not shared.worst:
        names = listed([run.name for run in order])
        yield Remark("warning", f"Not ranked, as no attack on the same images was met by all: {names}.")
        return
    (best, second), (worst, other) = order[:2], shared.worst[:2]
    share: Share = worst.summary.metrics["Avg"]
    threat = budget(worst.rows[0].norm, worst.rows[0].eps)
    under = f", under {listed([one.title for one in shared.attacks])}, which all met" if shared.left_out else ""
    said = f"{best.name} has the highest robust accuracy ({percent(share[0])} %, {threat}{under})"
    try:
        test = paired(_outcomes(worst), _outcomes(other))
    except ValueError:  # other data
        yield Remark("note", f"{said}.")
        return
    gap = f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]".replace("-", "−")
    verdict = "" if test.low > 0 else ": not significant"
    yield Remark("note", f"{said}; its difference to {second.name} is {gap} points on {test.n} images{verdict}.")


def _unequal(runs: Sequence[Run], rows: Sequence[HeadlineRow]) -> Iterator[Remark]:
    """Runs that have fewer images than others, as an unfinished one has."""
    counts = {row.name: row.robust.images for row in rows if row.robust is not None}
    most = max(counts.values(), default=0)
    if fewer := [f"{name} {count}" for name, count in counts.items() if count < most]:
        yield Remark("warning", f"Attacked on fewer than {most} images, perhaps unfinished: {', '.join(fewer)}.")


def _outcomes(evaluation: Evaluation[AttackedRecord]) -> Outcomes:
    return Outcomes.pooled([evaluation.rows])


def _images(rows: Sequence[HeadlineRow]) -> Iterator[Remark]:
    """The widest interval, and the number of images that would narrow it."""
    scores = [(row.name, one) for row in rows for one in (row.robust or row.clean, row.certified) if one is not None]
    name, widest = max(scores, key=lambda pair: pair[1].high - pair[1].low, default=("", None))
    if widest is None or widest.high - widest.low <= WIDE:
        return
    middle = (widest.low + widest.high) / 2
    needed = math.ceil(middle * (1 - middle) * (2 * 1.96 / AIM) ** 2 / 100) * 100
    width = 50 * (widest.high - widest.low)
    yield Remark(
        "note",
        f"{widest.images} images leave an interval of ±{width:.0f} points ({name}); about {needed:,} would leave "
        f"±{50 * AIM:.0f}.",
    )


def _undecided(runs: Sequence[Run]) -> Iterator[Remark]:
    counts = {run.name: sum(state(check) == "undecided" for check in run.checks) for run in runs}
    names = [name for name, count in counts.items() if count]
    if names:
        total = sum(counts.values())
        yield Remark("note", f"Too few images to decide {total} masking check{'s'[: total != 1]}: {', '.join(names)}.")


def _bounds(rows: Sequence[HeadlineRow]) -> Iterator[Remark]:
    radius = next((row.radius for row in rows if row.certified is not None), None)
    parts = []
    if any(row.robust is not None for row in rows):
        parts.append("robust accuracy is an upper bound, for the attacks that were run")
    if radius is not None:
        parts.append(f"certified accuracy is a lower bound, for every attack within L2 ≤ {radius:g}")
    if parts:
        sentence = "; ".join(parts)
        yield Remark("note", f"{sentence[0].upper()}{sentence[1:]}.")
