"""Checks that compare two attacks of one run, image by image: the stronger one has to be the stronger one.

Which attack ought to be stronger is read from the run's header: of two that differ in a single setting, the one with
the larger budget, more steps, more draws or more restarts. Everything is paired over the first draws of the images that
both attacked, and exact.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from scipy.stats import binom

from common.records.schema import AttackedRecord, Role, Source

SIGNIFICANCE = 0.01  # one-sided level of the paired comparisons: how often each cries wolf
FEWEST = 7  # pairs that differ, the least of which can be significant: 0.5^7 < 0.01 < 0.5^6
GROWING = {"eps": "a budget of {:.4g}", "steps": "{:g} steps", "eot": "{:g} draws a step", "restarts": "{:g} restarts"}
ALONG = {"eps": {"eps", "step_size"}}  # settings that may grow along with another
APART = {"name", "role", "limit", "draws", "resubmissions", "keep_images"}  # settings that do not touch the attack

Rows = Sequence[AttackedRecord]


@dataclass(frozen=True)
class MaskingCheck:
    """``name``, whether it ``passed``, and one ``sentence`` that says what was seen and what it means.

    ``decided=False``: there are too few images to tell, and ``passed`` says no more than that nothing was found.
    """

    name: str
    passed: bool
    sentence: str
    decided: bool = True


def beats(before: Sequence[bool], after: Sequence[bool]) -> bool:
    """Whether significantly more images went from right to wrong than back: one-sided exact McNemar test."""
    lost, won = turned(before, after)
    return bool(binom.sf(lost - 1, lost + won, 0.5) < SIGNIFICANCE) if lost + won else False


def turned(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int]:
    """How many images went from right to wrong, and how many back."""
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    return lost, won


def percent(share: float) -> str:
    """``"12.5 %"``."""
    return f"{100 * share:.1f} %"


def transfer(white: Rows, black: Rows) -> MaskingCheck:
    """Fails when an attack without the defence's gradient breaks significantly more images."""
    strong, weak = _common(white, black)
    if not strong:
        raise ValueError("a black-box and a white-box attack can only be compared on the same images; they share none")
    sentence = f"First draws: {_survive(strong)} survive the white-box and {_survive(weak)} the black-box attack"
    end = "no difference shown, so neither attack alone is the last word; see the worst of both"
    return _ordered(white, black, sentence, "the gradient misleads the white-box attack", end)


def trends(runs: Mapping[Source, Rows], parts: Sequence[Mapping[str, Any]]) -> Iterator[MaskingCheck]:
    """A check for each two neighbours in budget, steps, draws or restarts among attacks that are otherwise alike.

    ``runs`` are records by evaluator, ``parts`` the evaluators' descriptions in the run's header.
    """
    flat = {_source(part): _flat(part) for part in parts}
    for setting in GROWING:
        for names in _alike({source: values for source, values in flat.items() if source in runs}, setting):
            for (less, weak), (more, strong) in pairwise(names):
                yield grows(runs[strong], runs[weak], setting, more, less)


def grows(strong: Rows, weak: Rows, setting: str, more: float, less: float) -> MaskingCheck:
    """Fails when the attack with ``more`` of a setting breaks significantly fewer images than that with ``less``."""
    kept, other = _common(strong, weak)
    with_more, with_less = GROWING[setting].format(more), GROWING[setting].format(less)
    sentence = f"First draws: {_survive(kept)} survive {with_more} and {_survive(other)} survive {with_less}"
    bad = "more of it makes the attack weaker, so it follows a masked gradient or keeps its books wrongly"
    return _ordered(strong, weak, sentence, bad, "nothing speaks against the attack")


def _ordered(strong: Rows, weak: Rows, sentence: str, bad: str, unclear: str) -> MaskingCheck:
    kept, other = _common(strong, weak)
    name = f"{strong[0].source.title}: not weaker than {weak[0].source.title}"
    if len(kept) < FEWEST:
        return MaskingCheck(name, True, f"{sentence}: {_too_few(len(kept))}.", decided=False)
    passed = not beats(kept, other)
    end = bad if not passed else "as expected" if beats(other, kept) else unclear
    return MaskingCheck(name, passed, f"{sentence}: {end}.")


def _too_few(count: int) -> str:
    return f"{count} images cannot tell, {FEWEST} might"


def _common(first: Rows, second: Rows) -> tuple[list[bool], list[bool]]:
    """Which first draws were right, of the images that both attacked."""
    others = {row.index: row for row in second}
    pairs = [(row, others[row.index]) for row in first if row.index in others]
    return [a.predictions[0] == a.label for a, _ in pairs], [b.predictions[0] == b.label for _, b in pairs]


def _survive(right: Sequence[bool]) -> str:
    return percent(sum(right) / max(1, len(right)))


def _source(part: Mapping[str, Any]) -> Source:
    """Identity of an evaluation described in a header."""
    return Source(str(part.get("name")), int(part.get("seed") or 0), Role(part.get("role", Role.RESULT)))


def _flat(part: Any, path: str = "") -> dict[str, Any]:
    """A description as (dotted path: value), without what does not touch the attack."""
    if isinstance(part, Mapping):
        inside = [(key, value) for key, value in part.items() if path or key not in APART]
        return {place: value for key, below in inside for place, value in _flat(below, f"{path}.{key}").items()}
    if isinstance(part, list):
        return {place: value for i, below in enumerate(part) for place, value in _flat(below, f"{path}.{i}").items()}
    return {path: part}


def _alike(flat: Mapping[Source, Mapping[str, Any]], setting: str) -> Iterator[list[tuple[float, Source]]]:
    """Groups of (value, evaluation), ascending, of evaluators that differ in ``setting`` alone."""
    loose = ALONG.get(setting, {setting})
    groups: dict[str, dict[float, Source]] = defaultdict(dict)
    for source, values in flat.items():
        found = [value for path, value in values.items() if _last(path) == setting and isinstance(value, int | float)]
        if len(found) == 1:
            rest = sorted((path, str(value)) for path, value in values.items() if _last(path) not in loose)
            groups[str(rest)].setdefault(float(found[0]), source)
    yield from (sorted(group.items()) for group in groups.values() if len(group) > 1)


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1]
