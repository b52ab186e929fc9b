"""Banners above the results: approximate or failed gradients, failed and undecided checks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.numerics.finding import ATTACK_GRADIENT, DECLARED_GRADIENT, Finding
from common.records.masking.check import MaskingCheck
from common.report.runs import CheckState, Run, state
from common.report.tables.gradients import findings, gradients, weak_gradients

GRADIENTS = {
    "failed": ("Gradients that failed their check: the robust accuracies are no more than upper bounds", False),
    "approximate": ("Approximate gradients: the robust accuracies are upper bounds", False),
    "unknown": ("The gradients were not verified", True),
}
CHECKS: tuple[tuple[CheckState, str, bool], ...] = (
    ("failed", "{} failed: the numbers may be too high", False),
    ("undecided", "{} could not decide", True),
)


@dataclass(frozen=True)
class Banner:
    """A titled list of (name, sentence); ``quiet`` where nothing failed."""

    title: str
    sentences: list[tuple[str, str]]
    quiet: bool


def banners(runs: Sequence[Run]) -> list[Banner]:
    """The banners: gradients first, then failed checks, then undecided ones."""
    known = [(run.name, shown) for run in runs if (shown := gradients(run)) is not None]
    found = [
        Banner(title, [(name, words) for name, one in known if one.state == kind for words in one.sentences], quiet)
        for kind, (title, quiet) in GRADIENTS.items()
    ]
    weak = [(run.name, one.sentence) for run in runs for one in weak_gradients(run)]
    found.append(Banner("Attacks by a gradient that is far from the exact one", weak, False))
    for kind, title, quiet in CHECKS:
        sentences = [
            (f"{run.name}, {name}", check.sentence)
            for run in runs
            for name, check in all_checks(run)
            if state(check) == kind and not _has_own_banner(check)
        ]
        count = f"{len(sentences)} check{'' if len(sentences) == 1 else 's'}"
        found.append(Banner(title.format(count), sentences, quiet))
    return [banner for banner in found if banner.sentences]


def all_checks(run: Run) -> Iterator[tuple[str, MaskingCheck | Finding]]:
    """Every masking check, and every finding of the gradient check, each with the name to show."""
    for check in run.checks:
        yield check.name, check
    for finding in findings(run):
        yield f"gradient check: {finding.name}", finding


def _has_own_banner(check: MaskingCheck | Finding) -> bool:
    """True of a failed gradient check, of a declared gradient and of that of an attack."""
    return isinstance(check, Finding) and (
        state(check) == "failed" or check.name == DECLARED_GRADIENT or check.name.startswith(ATTACK_GRADIENT)
    )
