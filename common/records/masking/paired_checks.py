"""Masking checks that compare two attacks of one run, image by image: the attack that ought to be stronger must be.

Of two attacks that differ in a single setting of the run's header, the stronger one has the larger budget, more steps,
more draws or more restarts. All comparisons are exact, paired over the first draws of the images that both attacked.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from common.records.column_rows import Rows, common_places
from common.records.columns import Values
from common.records.dotted_paths import flattened
from common.records.masking.check import FEWEST, Attacked, MaskingCheck, breaks_more, first_correct, share_of
from common.records.schema import Source

STRENGTHS = {
    "eps": "a budget of {:.4g}",
    "steps": "{:g} steps",
    "eot": "{:g} draws a step",
    "restarts": "{:g} restarts",
}
"""Settings that make an attack stronger as they grow, in words."""

COUPLED = {"eps": {"eps", "step_size"}}
"""Settings that may grow along with another."""

NOT_THE_ATTACK = {"name", "role", "limit", "draws", "resubmissions", "keep_images"}
"""Settings of an evaluator that do not change its attack."""


def transfer(white: Attacked, black: Attacked) -> MaskingCheck:
    """Fails if an attack without the defence's gradient breaks significantly more images."""
    strong, weak = _common(white, black)
    if not len(strong):
        raise ValueError("a black-box and a white-box attack can only be compared on the same images; they share none")
    sentence = f"First draws: {share_of(strong)} survive the white-box and {share_of(weak)} the black-box attack"
    end = "no significant difference, so neither attack alone decides; see the worst of both"
    return _compared(white, black, sentence, "the gradient misleads the white-box attack", end)


def breaks_significantly_more(strong: Attacked, weak: Attacked) -> bool:
    """True if ``strong`` breaks significantly more images, by the first draws of the images that both attacked."""
    kept, other = _common(strong, weak)
    return breaks_more(other, kept)


def trends(runs: Mapping[Source, Attacked], parts: Sequence[Mapping[str, Any]]) -> Iterator[MaskingCheck]:
    """A check for each two neighbours in budget, steps, draws or restarts among attacks that are otherwise equal.

    ``runs`` are records by evaluator, ``parts`` the evaluators' descriptions in the run's header.
    """
    flat = {Source.described(part): _settings(part) for part in parts}
    for setting in STRENGTHS:
        for names in _series({source: values for source, values in flat.items() if source in runs}, setting):
            for (less, weak), (more, strong) in pairwise(names):
                yield grows(runs[strong], runs[weak], setting, more, less)


def grows(strong: Attacked, weak: Attacked, setting: str, more: float, less: float) -> MaskingCheck:
    """Fails if the attack with ``more`` of a setting breaks significantly fewer images than that with ``less``."""
    kept, other = _common(strong, weak)
    with_more, with_less = STRENGTHS[setting].format(more), STRENGTHS[setting].format(less)
    sentence = f"First draws: {share_of(kept)} survive {with_more} and {share_of(other)} survive {with_less}"
    bad = "more of it makes the attack weaker, so it follows a masked gradient or selects the best iterate incorrectly"
    return _compared(strong, weak, sentence, bad, "no significant difference")


def _compared(strong: Attacked, weak: Attacked, sentence: str, bad: str, unclear: str) -> MaskingCheck:
    """Fails if ``strong`` breaks significantly fewer images than ``weak``."""
    kept, other = _common(strong, weak)
    name = f"{strong[0].source.title}: not weaker than {weak[0].source.title}"
    if len(kept) < FEWEST:
        end = f"{len(kept)} images are too few to decide (at least {FEWEST})"
        return MaskingCheck(name, True, f"{sentence}: {end}.", decided=False)
    passed = not breaks_more(kept, other)
    end = bad if not passed else "as expected" if breaks_more(other, kept) else unclear
    return MaskingCheck(name, passed, f"{sentence}: {end}.")


def _common(first: Attacked, second: Attacked) -> tuple[Values, Values]:
    """Correctness of the first draws, for the images that both attacked."""
    one, two = Rows.of(first), Rows.of(second)
    ours, theirs = common_places(one, two)
    return first_correct(one)[ours], first_correct(two)[theirs]


def _settings(part: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the attack in an evaluator's description, by dotted path."""
    return flattened({key: value for key, value in part.items() if key not in NOT_THE_ATTACK})


def _series(flat: Mapping[Source, Mapping[str, Any]], setting: str) -> Iterator[list[tuple[float, Source]]]:
    """Groups of (value, source), ascending, of evaluators that differ in ``setting`` alone."""
    loose = COUPLED.get(setting, {setting})
    groups: dict[str, dict[float, Source]] = defaultdict(dict)
    for source, values in flat.items():
        sizes = [value for path, value in values.items() if _last(path) == setting and isinstance(value, int | float)]
        if len(sizes) == 1:
            rest = sorted((path, str(value)) for path, value in values.items() if _last(path) not in loose)
            groups[str(rest)].setdefault(float(sizes[0]), source)
    yield from (sorted(group.items()) for group in groups.values() if len(group) > 1)


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1]
