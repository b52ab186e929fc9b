"""Masking checks of one attack, by its own records."""

from collections.abc import Callable

from common.records.masking.check import (
    FEWEST,
    MaskingCheck,
    Rows,
    breaks_more,
    first_clean_correct,
    first_correct,
    flips,
    in_percent,
    share_of,
)
from common.records.summary import summarise

HIDDEN = 0.05  # largest share of images with a sign of masking at which a check passes
UNMOVED = 0.01  # share of eps below which a perturbation counts as none
DEAD = 0.5  # share of an attack's steps without a usable gradient from which on it counts as blind


def single_checks(rows: Rows) -> list[MaskingCheck]:
    """All checks that the records of one attack allow."""
    checks: list[Callable[[Rows], MaskingCheck]] = []
    if rows[0].zero_gradient is not None:
        checks += [gradient_reaches_the_image, outputs_are_not_probabilities, noise_is_declared]
    if rows[0].dead is not None and rows[0].white_box:
        checks += [steps_have_gradients]
    checks += [attack_moves_images, attack_beats_clean_queries, robust_is_not_above_clean]
    return [check(rows) for check in checks]


def gradient_reaches_the_image(rows: Rows) -> MaskingCheck:
    """Fails if the loss gradient of more than 5 % of the images is exactly zero, missing or not finite."""
    share = sum(bool(row.zero_gradient) for row in rows) / len(rows)
    sentence = f"The loss gradient is zero or not finite for {in_percent(share)} of the images"
    end = "a gradient attack is blind there, so robustness is overstated" if share > HIDDEN else "attacks can use it"
    return MaskingCheck(f"{rows[0].source.title}: gradient reaches the image", share <= HIDDEN, f"{sentence}: {end}.")


def steps_have_gradients(rows: Rows) -> MaskingCheck:
    """Fails if for more than 5 % of the images most of the attack's steps had a gradient that was zero or not finite.

    The gradient may exist at the clean image and vanish during the attack.
    """
    share = sum((row.dead or 0.0) > DEAD for row in rows) / len(rows)
    sentence = f"Most steps of the attack had no usable gradient for {in_percent(share)} of the images"
    end = "it did not move there, so robustness is overstated" if share > HIDDEN else "it could move"
    return MaskingCheck(f"{rows[0].source.title}: steps have gradients", share <= HIDDEN, f"{sentence}: {end}.")


def outputs_are_not_probabilities(rows: Rows) -> MaskingCheck:
    """Fails if more than 5 % of the outputs are probabilities instead of logits."""
    share = sum(bool(row.probabilities) for row in rows) / len(rows)
    name = f"{rows[0].source.title}: outputs are logits"
    if share <= HIDDEN:
        return MaskingCheck(name, True, "The classifier's outputs are logits.")
    sentence = (
        f"{in_percent(share)} of the outputs are probabilities, whose loss gradient vanishes: remove the softmax."
    )
    return MaskingCheck(name, False, sentence)


def noise_is_declared(rows: Rows) -> MaskingCheck:
    """Fails if the same noise gave different outputs for any image."""
    count = sum(not row.repeatable for row in rows)
    sentence = "The same noise gives the same outputs."
    if count:
        sentence = (
            f"For {count} of {len(rows)} images the same noise gave different outputs: the defence draws random "
            "numbers from elsewhere, so attack and score may not see the same defence."
        )
    return MaskingCheck(f"{rows[0].source.title}: randomness is declared", not count, sentence)


def attack_moves_images(rows: Rows) -> MaskingCheck:
    """Fails if more than 5 % of the correctly classified images were returned practically unchanged.

    Attacks made for deterministic classifiers skip an image that a single draw misclassified.
    """
    name = f"{rows[0].source.title}: attack moves the images"
    correct = [row for row in rows if all(guess == row.label for guess in row.clean_predictions)]
    if not correct:
        return MaskingCheck(name, True, "No image was classified correctly on all draws before the attack.")
    share = sum(row.distance < UNMOVED * row.eps for row in correct) / len(correct)
    sentence = f"The attack left {in_percent(share)} of the correctly classified images where they were"
    end = "it skipped them, so their robustness is untested" if share > HIDDEN else "as expected"
    return MaskingCheck(name, share <= HIDDEN, f"{sentence}: {end}.")


def attack_beats_clean_queries(rows: Rows) -> MaskingCheck:
    """Fails unless the attack breaks significantly more images, over all draws, than as many clean queries.

    With K draws a randomised defence errs on some draw without any attack. Paired over images, exact. Fewer than seven
    differing images are never significant: the check is then undecided, unless there are seven images to break and none
    was broken.
    """
    name = f"{rows[0].source.title}: attack beats clean queries"
    clean = [all(guess == row.label for guess in row.clean_predictions) for row in rows]
    attacked = [all(guess == row.label for guess in row.predictions) for row in rows]
    sentence = f"With all draws right: {share_of(clean)} of the clean and {share_of(attacked)} of the attacked images"
    lost, won = flips(clean, attacked)
    if lost + won < FEWEST and (lost or sum(clean) < FEWEST):
        end = f"the two differ in {lost + won} images, too few to decide (at least {FEWEST})"
        return MaskingCheck(name, True, f"{sentence}: {end}.", decided=False)
    passed = breaks_more(clean, attacked)
    end = "the attack does real harm" if passed else "the attack is no stronger than as many clean queries"
    return MaskingCheck(name, passed, f"{sentence}: {end}.")


def robust_is_not_above_clean(rows: Rows) -> MaskingCheck:
    """Fails if attacked images are classified significantly better than clean ones (first draws, paired, exact)."""
    clean, attacked = first_clean_correct(rows), first_correct(rows)
    passed = not breaks_more(attacked, clean)
    sentence = f"First draws: {share_of(attacked)} right under attack, {share_of(clean)} without"
    end = "as expected" if passed else "the attack helps the defence, so it is broken, perhaps in the sign of its loss"
    return MaskingCheck(f"{rows[0].source.title}: robust is not above clean", passed, f"{sentence}: {end}.")


def attack_breaks_the_baseline(rows: Rows) -> MaskingCheck:
    """Fails unless the same attack does significant harm to another classifier (first draws, paired, exact).

    An undefended network breaks under any working attack, an adversarially trained one loses some accuracy. If neither
    is observed, the attack is no evidence about a defence.
    """
    name = f"{rows[0].source.title}: attack breaks the baseline"
    clean, attacked = first_clean_correct(rows), first_correct(rows)
    before, after = share_of(clean), share_of(attacked)
    sentence = f"Of the {rows[0].baseline} classifier's images {before} are right, {after} under the attack"
    if sum(clean) < FEWEST:
        return MaskingCheck(name, True, f"{sentence}: too few to decide (at least {FEWEST} right).", decided=False)
    passed = breaks_more(clean, attacked)
    end = "it works" if passed else "it does no harm even there, so it is no evidence about the defence"
    return MaskingCheck(name, passed, f"{sentence}: {end}.")


def huge_budget_breaks_all(rows: Rows, chance: float | None = None) -> MaskingCheck:
    """For an attack with a huge budget: fails if accuracy is significantly above ``chance`` (1 / number of labels)."""
    classes = len({row.label for row in rows})
    chance = 1 / max(classes, 2) if chance is None else chance
    (summary,) = summarise(rows)
    value, low, _ = summary.metrics["Avg"]
    sentence = f"With a budget of {rows[0].eps:.3g} in {rows[0].norm} {in_percent(value)} survive"
    end = "no more than by chance" if low <= chance else "a grey image is within reach, but the attack missed it"
    name = f"{rows[0].source.title}: a huge budget breaks everything"
    return MaskingCheck(name, low <= chance, f"{sentence}: {end}.")
