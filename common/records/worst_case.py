"""Worst cases of several attacks within one budget, per image: cross-fitted, and the per-image minimum."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby

from common.records.schema import AttackedRecord, Record, Role, Source
from common.records.summary import correct_share

LISTED = 3  # attacks that the name of a worst case lists
Rows = dict[Source, dict[int, AttackedRecord]]  # by attack and image
Protocol = tuple[str, float, str, int, str]


def worst_case(records: Iterable[Record]) -> list[AttackedRecord]:
    """Per image the stronger of several attacks within one budget, as rows of an evaluator ``worst of A, B``.

    A defence is worth its accuracy under all attacks together. Taking the attack with the fewest correct draws
    (`per_image_minimum`) would be biased by the selection, so the worst case is cross-fitted: the attack is chosen on
    one half of the draws and scored on the other, and the reverse; a single draw is taken as it is. Ties go to the
    attack that is the stronger one over all images. Where that attack alone leaves less accuracy than the choice per
    image, it is the worst case: no row lies above its attacks. The choice on half of the draws misses some of the
    stronger attacks, the more of them there are, so the accuracy left to an attacker who may query at will is lower.

    Attacks are compared that share norm, eps, decision rule and knowledge of the noise, on the images of those that
    attacked most images; an attack with a lower ``limit`` is left out.
    """
    return [row for runs, common in _groups(records) for row in _cross_fitted_rows(runs, common)]


def per_image_minimum(records: Iterable[Record]) -> list[AttackedRecord]:
    """Per image the attack with the fewest correct draws, as rows of an evaluator ``per-image minimum of A, B``.

    Chosen and scored on the same draws, luck counts as strength: what an attacker leaves who may query the defence at
    will, and never more than `worst_case` of the same attacks. The two agree for one draw per image.
    """
    derived: list[AttackedRecord] = []
    for runs, common in _groups(records):
        draws, name = min(len(row.predictions) for rows in runs.values() for row in rows.values()), _listed(runs)
        for same in ([rows[i] for rows in runs.values()] for i in common):
            least = min((row.predictions[:draws] for row in same), key=partial(correct_share, label=same[0].label))
            derived.append(_derived(same[0], f"per-image minimum of {name}", least))
    return derived


def protocol(row: AttackedRecord) -> Protocol:
    """Settings that attacks share to be compared as attacks on one defence: norm, eps, rule, votes, knowledge."""
    return row.norm, row.eps, row.rule, row.votes, row.knows


def _groups(records: Iterable[Record]) -> Iterator[tuple[Rows, list[int]]]:
    """Attacks of one protocol on most images, at least two, and the images that all of them attacked."""
    attacked = sorted((row for row in records if isinstance(row, AttackedRecord)), key=protocol)
    for _, group in groupby(attacked, key=protocol):
        runs: Rows = {}
        for row in group:
            runs.setdefault(row.source, {})[row.index] = row
        most = max(map(len, runs.values()))
        runs = {source: rows for source, rows in sorted(runs.items()) if len(rows) == most}
        common = sorted(set.intersection(*(set(rows) for rows in runs.values())))
        if len(runs) > 1 and common:
            yield runs, common


def _listed(runs: Rows) -> str:
    return ", ".join(source.title for source in sorted(runs)) if len(runs) <= LISTED else f"{len(runs)} attacks"


def _cross_fitted_rows(runs: Rows, common: Sequence[int]) -> list[AttackedRecord]:
    strongest_first = sorted(runs, key=lambda source: sum(_correct(runs[source][i]) for i in common))
    rows = [[runs[source][i] for source in strongest_first] for i in common]
    worst = [_cross_fitted([row.predictions for row in same], same[0].label) for same in rows]
    alone = [same[0].predictions for same in rows]
    labels = [same[0].label for same in rows]
    if _accuracy(worst, labels) > _accuracy(alone, labels):
        worst = alone
    name = f"worst of {_listed(runs)}"
    return [_derived(same[0], name, predictions) for same, predictions in zip(rows, worst, strict=True)]


def _derived(strongest: AttackedRecord, name: str, predictions: list[int]) -> AttackedRecord:
    """Row of the worst case: of the strongest attack's fields those that hold for all."""
    return AttackedRecord(
        evaluator=name,
        role=Role.WORST_CASE,
        index=strongest.index,
        label=strongest.label,
        predictions=predictions,
        clean_predictions=strongest.clean_predictions,
        distance=strongest.distance,
        norm=strongest.norm,
        eps=strongest.eps,
        white_box=False,
        knows=strongest.knows,
        rule=strongest.rule,
        votes=strongest.votes,
    )


def _correct(row: AttackedRecord) -> float:
    return correct_share(row.predictions, row.label)


def _accuracy(predictions: Sequence[Sequence[int]], labels: Sequence[int]) -> float:
    """Mean over images of the share of correct draws."""
    shares = [correct_share(draws, label) for draws, label in zip(predictions, labels, strict=True)]
    return sum(shares) / len(shares)


def _cross_fitted(attacks: list[list[int]], label: int) -> list[int]:
    """(attacks, draws) predictions -> those of the attack chosen on the other half; ties go to the first attack."""
    draws = min(map(len, attacks))
    halves = [range(0, draws, 2), range(1, draws, 2)] if draws > 1 else [range(1), range(1)]
    worst = list(attacks[0][:draws])
    for chosen, scored in (halves, halves[::-1]):
        best = min(attacks, key=lambda predictions: sum(predictions[draw] == label for draw in chosen))
        for draw in scored:
            worst[draw] = best[draw]
    return worst
