"""Worst cases of several attacks within one budget, per image: cross-fitted, and the per-image minimum."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from common.records.column_rows import Rows, common_images, filled, on_images, unknown_costs
from common.records.columns import Lists, Values
from common.records.schema import AttackedRecord, Record, Role, Source
from common.records.summary import correct_shares
from common.records.table import Table

LISTED = 3  # attacks that the name of a worst case lists
PROTOCOL = ("norm", "eps", "rule", "votes", "knows")
Attacked = Rows[AttackedRecord]
Protocol = tuple[str, float, str, int, str]


def worst_case(records: Iterable[Record]) -> Table:
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
    return Table(map(_cross_fitted_rows, _groups(records)))


def per_image_minimum(records: Iterable[Record]) -> Table:
    """Per image the attack with the fewest correct draws, as rows of an evaluator ``per-image minimum of A, B``.

    Chosen and scored on the same draws, luck counts as strength: what an attacker leaves who may query the defence at
    will, and never more than `worst_case` of the same attacks. The two agree for one draw per image.
    """
    return Table(map(_least_rows, _groups(records)))


def protocol(row: AttackedRecord) -> Protocol:
    """Settings that attacks share to be compared as attacks on one defence: norm, eps, rule, votes, knowledge."""
    return row.norm, row.eps, row.rule, row.votes, row.knows


def _groups(records: Iterable[Record]) -> Iterator[list[Attacked]]:
    """Attacks of one protocol on most images, at least two, on the images that all of them attacked."""
    groups: dict[Protocol, list[Attacked]] = {}
    for rows in Table.of(records).select(AttackedRecord):
        for key, part in _by_protocol(rows):
            groups.setdefault(key, []).append(part)
    for _, attacks in sorted(groups.items()):
        most = max(map(len, attacks))
        attacks = [rows for rows in attacks if len(rows) == most]
        common = common_images(attacks)
        if len(attacks) > 1 and len(common):
            yield [on_images(rows, common) for rows in attacks]


def _by_protocol(rows: Attacked) -> Iterator[tuple[Protocol, Attacked]]:
    """Rows of each protocol, nearly always one."""
    columns = [rows.array(name) for name in PROTOCOL]
    if all((column == column[0]).all() for column in columns):
        yield protocol(rows[0]), rows
        return
    keys = list(zip(*(column.tolist() for column in columns), strict=True))
    for key in dict.fromkeys(keys):
        yield key, rows.take(np.array([other == key for other in keys]))


def _listed(runs: Sequence[Attacked]) -> str:
    return ", ".join(rows.source.title for rows in runs) if len(runs) <= LISTED else f"{len(runs)} attacks"


def _cross_fitted_rows(runs: Sequence[Attacked]) -> Attacked:
    strongest_first = sorted(runs, key=lambda rows: sum(_shares(rows).tolist()))
    first = strongest_first[0]
    worst, alone = _cross_fitted(strongest_first), first.lists("predictions")
    left = [sum(correct_shares(draws, first.label).tolist()) / len(first) for draws in (worst, alone)]
    if left[0] > left[1]:
        worst = alone
    return _derived(first, f"worst of {_listed(runs)}", worst)


def _least_rows(runs: Sequence[Attacked]) -> Attacked:
    first, draws = runs[0], min(int(rows.lists("predictions").lengths.min()) for rows in runs)
    stacked = np.stack([_first_draws(rows, draws) for rows in runs])
    least = (stacked == first.label[:, None]).sum(2).argmin(0)  # the first of equals
    chosen = stacked[least, np.arange(len(first))]
    return _derived(first, f"per-image minimum of {_listed(runs)}", _as_lists(chosen))


def _derived(strongest: Attacked, name: str, predictions: Lists) -> Attacked:
    """Rows of the worst case: of the strongest attack's fields those that hold for all."""
    kept = ("index", "label", "clean_predictions", "distance", *PROTOCOL)
    n = len(strongest)
    given = {name: strongest.columns[name] for name in kept}
    given |= {"predictions": predictions, "white_box": np.zeros(n, bool)}
    return Rows(AttackedRecord, Source(name, role=Role.WORST_CASE), filled(AttackedRecord, given, n), unknown_costs(n))


def _shares(rows: Attacked) -> Values:
    return correct_shares(rows.lists("predictions"), rows.label)


def _first_draws(rows: Attacked, draws: int) -> Values:
    """The first ``draws`` predictions of each image (n, draws)."""
    lists = rows.lists("predictions")
    first: Values = lists.flat[lists.starts[:, None] + np.arange(draws)]
    return first


def _as_lists(values: Values) -> Lists:
    return Lists(values.reshape(-1), np.full(len(values), values.shape[1]))


def _cross_fitted(attacks: Sequence[Attacked]) -> Lists:
    """Predictions of the attack that is chosen on the other half of the draws; ties go to the first attack.

    The draws of an image are as many as all attacks have.
    """
    least = np.min([rows.lists("predictions").lengths for rows in attacks], axis=0)
    worst = Lists(np.zeros(int(least.sum()), np.int64), least)
    for draws in set(least.tolist()):
        images = np.flatnonzero(least == draws)
        stacked = np.stack([_first_draws(rows.take(images), draws) for rows in attacks])
        places = worst.starts[images][:, None] + np.arange(draws)
        worst.flat[places] = _halves_exchanged(stacked, attacks[0].label[images])
    return worst


def _halves_exchanged(attacks: Values, label: Values) -> Values:
    """(attacks, n, draws) predictions -> (n, draws), each half those of the attack with fewest right in the other."""
    draws = attacks.shape[2]
    halves = [np.arange(0, draws, 2), np.arange(1, draws, 2)] if draws > 1 else [np.arange(1)] * 2
    worst: Values = attacks[0].copy()
    images = np.arange(len(label))
    for chosen, scored in (halves, halves[::-1]):
        best = (attacks[:, :, chosen] == label[:, None]).sum(2).argmin(0)
        worst[:, scored] = attacks[best, images][:, scored]
    return worst
