"""Banners above the results: approximate or failed gradients, failed and undecided checks."""

from collections.abc import Iterator, Sequence

from common.numerics.finding import DECLARED_GRADIENT, Finding
from common.records.masking.check import MaskingCheck
from common.report.page.markup import aside
from common.report.runs import CheckState, Run, state
from common.report.tables.gradients import findings, gradients

GRADIENTS = {
    "failed": ("The gradients of these attacks are wrong: the robust accuracies are invalid", ""),
    "approximate": ("Approximate gradients: the robust accuracies are upper bounds", ""),
    "unknown": ("The gradients were not verified", "quiet"),
}
CHECKS: tuple[tuple[CheckState, str, str], ...] = (
    ("failed", "{} failed: the numbers may be too high", ""),
    ("undecided", "{} could not decide", "quiet"),
)


def banners(runs: Sequence[Run]) -> list[str]:
    """HTML of the banners: gradients first, then failed checks, then undecided ones."""
    known = [(run.name, shown) for run in runs if (shown := gradients(run)) is not None]
    parts = [
        aside(title, [(name, words) for name, one in known if one.state == kind for words in one.sentences], look)
        for kind, (title, look) in GRADIENTS.items()
    ]
    for kind, title, look in CHECKS:
        sentences = [
            (f"{run.name}, {name}", check.sentence)
            for run in runs
            for name, check in all_checks(run)
            if state(check) == kind and not _has_own_banner(check)
        ]
        count = f"{len(sentences)} check{'' if len(sentences) == 1 else 's'}"
        parts.append(aside(title.format(count), sentences, look))
    return parts


def all_checks(run: Run) -> Iterator[tuple[str, MaskingCheck | Finding]]:
    """Every masking check, and every finding of the gradient check, each with the name to show."""
    for check in run.checks:
        yield check.name, check
    for finding in findings(run):
        yield f"gradient check: {finding.name}", finding


def _has_own_banner(check: MaskingCheck | Finding) -> bool:
    """True of a failed gradient check and of a declared gradient."""
    return isinstance(check, Finding) and (state(check) == "failed" or check.name == DECLARED_GRADIENT)
