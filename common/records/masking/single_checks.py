"""Masking checks of one attack, by its own records."""

from collections.abc import Callable

import numpy as np

from common.records.column_rows import Rows
from common.records.masking.check import (
    FEWEST,
    Attacked,
    MaskingCheck,
    all_correct,
    breaks_more,
    first_clean_correct,
    first_correct,
    flips,
    in_percent,
    share_of,
)
from common.records.summary import summary

HIDDEN = 0.05  # largest share of images with a sign of masking at which a check passes
UNMOVED = 0.01  # share of eps below which a perturbation counts as none
DEAD = 0.5  # share of an attack's steps without a usable gradient from which on it counts as blind


def single_checks(rows: Attacked, stronger: bool = False) -> list[MaskingCheck]:
    """All checks that the records of one attack allow.

    ``stronger``: another attack within the same threat breaks more of these images; then this one need not beat clean
    queries, since no reported robustness rests on it.
    """
    checks: list[Callable[[Attacked], MaskingCheck]] = []
    if rows[0].zero_gradient is not None:
        checks += [gradient_reaches_the_image, outputs_are_not_probabilities, noise_is_declared]
    if rows[0].dead is not None and rows[0].white_box:
        checks += [steps_have_gradients]
    checks += [attack_moves_images, *([] if stronger else [attack_beats_clean_queries]), robust_is_not_above_clean]
    return [check(rows) for check in checks]


def gradient_reaches_the_image(rows: Attacked) -> MaskingCheck:
    """Fails if the loss gradient of more than 5 % of the images is exactly zero, missing or not finite."""
    share = int((Rows.of(rows).array("zero_gradient") == 1).sum()) / len(rows)
    sentence = f"The loss gradient is zero or not finite for {in_percent(share)} of the images"
    end = "a gradient attack is blind there, so robustness is overstated" if share > HIDDEN else "attacks can use it"
    return MaskingCheck(f"{rows[0].source.title}: gradient reaches the image", share <= HIDDEN, f"{sentence}: {end}.")


def steps_have_gradients(rows: Attacked) -> MaskingCheck:
    """Fails if for more than 5 % of the images most of the attack's steps had a gradient that was zero or not finite.

    The gradient may exist at the clean image and vanish during the attack.
    """
    share = int((Rows.of(rows).array("dead") > DEAD).sum()) / len(rows)
    sentence = f"Most steps of the attack had no usable gradient for {in_percent(share)} of the images"
    end = "it did not move there, so robustness is overstated" if share > HIDDEN else "it could move"
    return MaskingCheck(f"{rows[0].source.title}: steps have gradients", share <= HIDDEN, f"{sentence}: {end}.")


def outputs_are_not_probabilities(rows: Attacked) -> MaskingCheck:
    """Fails if more than 5 % of the outputs are probabilities instead of logits."""
    share = int((Rows.of(rows).array("probabilities") == 1).sum()) / len(rows)
    name = f"{rows[0].source.title}: outputs are logits"
    if share <= HIDDEN:
        return MaskingCheck(name, True, "The classifier's outputs are logits.")
    sentence = (
        f"{in_percent(share)} of the outputs are probabilities, whose loss gradient vanishes: remove the softmax."
    )
    return MaskingCheck(name, False, sentence)


def noise_is_declared(rows: Attacked) -> MaskingCheck:
    """Fails if the same noise gave different outputs for any image."""
    count = int((Rows.of(rows).array("repeatable") != 1).sum())
    sentence = "The same noise gives the same outputs."
    if count:
        sentence = (
            f"For {count} of {len(rows)} images the same noise gave different outputs: the defence draws random "
            "numbers from elsewhere, so attack and score may not see the same defence."
        )
    return MaskingCheck(f"{rows[0].source.title}: randomness is declared", not count, sentence)


def attack_moves_images(rows: Attacked) -> MaskingCheck:
    """Fails if more than 5 % of the correctly classified images were returned practically unchanged.

    Attacks made for deterministic classifiers skip an image that a single draw misclassified.
    """
    name = f"{rows[0].source.title}: attack moves the images"
    table, correct = Rows.of(rows), all_correct(rows, "clean_predictions")
    if not correct.any():
        return MaskingCheck(name, True, "No image was classified correctly on all draws before the attack.")
    still = table.array("distance")[correct] < UNMOVED * table.array("eps")[correct]
    share = int(still.sum()) / len(still)
    sentence = f"The attack left {in_percent(share)} of the correctly classified images where they were"
    end = "it skipped them, so their robustness is untested" if share > HIDDEN else "as expected"
    return MaskingCheck(name, share <= HIDDEN, f"{sentence}: {end}.")


def attack_beats_clean_queries(rows: Attacked) -> MaskingCheck:
    """Fails unless the attack breaks significantly more images, over all draws, than as many clean queries.

    With K draws a randomised defence errs on some draw without any attack. Paired over images, exact. Fewer than seven
    differing images are never significant: the check is then undecided, unless there are seven images to break and none
    was broken.
    """
    name = f"{rows[0].source.title}: attack beats clean queries"
    clean, attacked = all_correct(rows, "clean_predictions"), all_correct(rows)
    sentence = f"With all draws right: {share_of(clean)} of the clean and {share_of(attacked)} of the attacked images"
    lost, won = flips(clean, attacked)
    if lost + won < FEWEST and (lost or clean.sum() < FEWEST):
        end = f"the two differ in {lost + won} images, too few to decide (at least {FEWEST})"
        return MaskingCheck(name, True, f"{sentence}: {end}.", decided=False)
    passed = breaks_more(clean, attacked)
    end = "the attack does real harm" if passed else "the attack is no stronger than as many clean queries"
    return MaskingCheck(name, passed, f"{sentence}: {end}.")


def robust_is_not_above_clean(rows: Attacked) -> MaskingCheck:
    """Fails if attacked images are classified significantly better than clean ones (first draws, paired, exact)."""
    clean, attacked = first_clean_correct(rows), first_correct(rows)
    passed = not breaks_more(attacked, clean)
    sentence = f"First draws: {share_of(attacked)} right under attack, {share_of(clean)} without"
    end = "as expected" if passed else "the attack helps the defence, so it is broken, perhaps in the sign of its loss"
    return MaskingCheck(f"{rows[0].source.title}: robust is not above clean", passed, f"{sentence}: {end}.")


def attack_breaks_the_baseline(rows: Attacked) -> MaskingCheck:
    """Fails unless the same attack does significant harm to another classifier (first draws, paired, exact).

    An undefended network breaks under any working attack, an adversarially trained one loses some accuracy. If neither
    is observed, the attack is no evidence about a defence.
    """
    name = f"{rows[0].source.title}: attack breaks the baseline"
    clean, attacked = first_clean_correct(rows), first_correct(rows)
    before, after = share_of(clean), share_of(attacked)
    sentence = f"Of the {rows[0].baseline} classifier's images {before} are right, {after} under the attack"
    if clean.sum() < FEWEST:
        return MaskingCheck(name, True, f"{sentence}: too few to decide (at least {FEWEST} right).", decided=False)
    passed = breaks_more(clean, attacked)
    end = "it works" if passed else "it does no harm even there, so it is no evidence about the defence"
    return MaskingCheck(name, passed, f"{sentence}: {end}.")


def huge_budget_breaks_all(rows: Attacked, chance: float | None = None) -> MaskingCheck:
    """For an attack with a huge budget: fails if accuracy is significantly above ``chance`` (1 / number of labels)."""
    table = Rows.of(rows)
    classes = len(np.unique(table.label))
    chance = 1 / max(classes, 2) if chance is None else chance
    value, low, _ = summary(table.source, table).metrics["Avg"]
    sentence = f"With a budget of {rows[0].eps:.3g} in {rows[0].norm} {in_percent(value)} survive"
    end = "no more than by chance" if low <= chance else "a grey image is within reach, but the attack missed it"
    name = f"{rows[0].source.title}: a huge budget breaks everything"
    return MaskingCheck(name, low <= chance, f"{sentence}: {end}.")
