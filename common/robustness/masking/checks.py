"""Checks for gradient masking: does the attack that a number rests on deserve trust?

After Athalye et al. (arXiv 1802.00420) and Carlini et al. (arXiv 1902.06705): a defence that merely hides its gradient
looks robust. `masking_signs` measures what shows from outside while an attack is evaluated; every other check is a
function of records and returns one sentence for the report. A failed check does not change a number: it says why not to
trust it. A check that has too few images to decide says so and has not failed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.noise import Noise
from common.records.schema import AttackedRecord, Record, Role
from common.records.summary import summarise
from common.robustness.classifiers import Classifier
from common.robustness.masking.paired_checks import (
    FEWEST,
    MaskingCheck,
    beats,
    percent,
    transfer,
    trends,
    turned,
)

__all__ = ["MaskingCheck", "masking_checks", "masking_signs", "transfer"]

HIDDEN = 0.05  # share of images that may show a sign of masking before a check fails
UNMOVED = 0.01  # a perturbation below this share of eps does not count as one
DEAD = 0.5  # share of an attack's steps without a gradient from which on it was blind
HUGE = {"Linf": 0.5}  # from here on a grey image is within reach of every image, and with it any class


def masking_signs(
    classifier: Classifier, image: Tensor, label: Tensor, noise: Noise, logits: Tensor
) -> list[dict[str, Any]]:
    """Signs of masking, one dictionary of booleans per image; costs one forward and backward pass.

    ``logits`` (B,K) are what the classifier answered before to the same images with the same noise.

    - ``zero_gradient``: the cross-entropy's gradient in the image is exactly zero, missing, or not finite.
    - ``probabilities``: the outputs lie in [0,1] and sum to one: a softmax too many, whose gradient vanishes.
    - ``repeatable``: the same noise gives the same outputs. If not, the defence draws random numbers elsewhere.
    """
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_(True)
        again = classifier(leaf, noise)
        loss = F.cross_entropy(again, label, reduction="sum")
        gradient = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
    slope = torch.zeros(len(image)) if gradient is None else gradient.flatten(1).abs().amax(1)
    hidden = ~(slope.isfinite() & (slope > 0))
    spread = 1 + logits.abs().amax(1)
    same = (again.detach() - logits).abs().amax(1) <= 1e-3 * spread
    probable = (logits.amin(1) >= 0) & ((logits.sum(1) - 1).abs() < 1e-4)
    flags = zip(hidden.tolist(), probable.tolist(), same.tolist(), strict=True)
    return [{"zero_gradient": h, "probabilities": p, "repeatable": s} for h, p, s in flags]


def masking_checks(records: Iterable[Record], config: Mapping[str, Any] | None = None) -> list[MaskingCheck]:
    """All checks that the records of one run allow, for each attacked evaluator in it.

    ``config`` is the run's header (``Records.describe(path).config``): it tells which attacks differ in one setting.
    Evaluators that are there to be compared (`sweep.masking_suite`) are not judged by themselves.
    """
    attacked = [record for record in records if isinstance(record, AttackedRecord)]
    attacked.sort(key=lambda record: record.key)
    runs = {source: list(rows) for source, rows in groupby(attacked, key=lambda record: record.source)}
    others = [rows for source, rows in runs.items() if source.role is Role.BASELINE]
    ours = {source: rows for source, rows in runs.items() if source.role is not Role.BASELINE}
    judged = {source: rows for source, rows in ours.items() if source.role is Role.RESULT}
    white = [rows for rows in judged.values() if rows[0].white_box]
    black = [rows for rows in judged.values() if not rows[0].white_box]
    return [
        *(check for rows in judged.values() for check in _single(rows)),
        *(transfer(w, b) for w in white for b in black if _threat(w) == _threat(b) and _share_images(w, b)),
        *trends(ours, (config or {}).get("evaluators") or []),
        *(huge_budget_breaks_all(rows) for rows in ours.values() if _is_huge(rows)),
        *(attack_breaks_the_baseline(rows) for rows in others),
    ]


def _single(rows: list[AttackedRecord]) -> list[MaskingCheck]:
    checks: list[Callable[[list[AttackedRecord]], MaskingCheck]] = []
    if rows[0].zero_gradient is not None:
        checks += [gradient_reaches_the_image, outputs_are_logits, noise_is_declared]
    if rows[0].dead is not None and rows[0].white_box:
        checks += [steps_have_gradients]
    checks += [attack_moves_images, attack_beats_asking_again, robust_is_not_above_clean]
    return [check(rows) for check in checks]


def gradient_reaches_the_image(rows: Sequence[AttackedRecord]) -> MaskingCheck:
    """Fails when the loss gradient of more than 5 % of the images is exactly zero, missing or not finite."""
    share = _share(rows, "zero_gradient")
    sentence = f"The loss gradient is zero or not finite for {percent(share)} of the images"
    end = "a gradient attack is blind there, so robustness is overstated" if share > HIDDEN else "the attack can see"
    return MaskingCheck(f"{rows[0].source.title}: gradient reaches the image", share <= HIDDEN, f"{sentence}: {end}.")


def steps_have_gradients(rows: Sequence[AttackedRecord]) -> MaskingCheck:
    """Fails when for more than 5 % of the images most of the attack's steps had a gradient that was zero or not finite.

    The gradient may be there at the clean image and vanish along the way.
    """
    share = sum((row.dead or 0.0) > DEAD for row in rows) / len(rows)
    sentence = f"Most steps of the attack had no usable gradient for {percent(share)} of the images"
    end = "it stood still there, so robustness is overstated" if share > HIDDEN else "it could move"
    return MaskingCheck(f"{rows[0].source.title}: steps have gradients", share <= HIDDEN, f"{sentence}: {end}.")


def outputs_are_logits(rows: Sequence[AttackedRecord]) -> MaskingCheck:
    """Fails when more than 5 % of the outputs are probabilities instead of logits."""
    share = _share(rows, "probabilities")
    if share <= HIDDEN:
        return MaskingCheck(f"{rows[0].source.title}: outputs are logits", True, "The classifier's outputs are logits.")
    sentence = f"{percent(share)} of the outputs are probabilities, whose loss gradient vanishes: remove the softmax."
    return MaskingCheck(f"{rows[0].source.title}: outputs are logits", False, sentence)


def noise_is_declared(rows: Sequence[AttackedRecord]) -> MaskingCheck:
    """Fails when the same noise gave different outputs for any image."""
    count = sum(not row.repeatable for row in rows)
    sentence = "The same noise gives the same outputs."
    if count:
        sentence = (
            f"For {count} of {len(rows)} images the same noise gave different outputs: the defence draws random "
            "numbers that it was not handed, so attack and score may not see the same defence."
        )
    return MaskingCheck(f"{rows[0].source.title}: randomness is declared", not count, sentence)


def attack_moves_images(rows: Sequence[AttackedRecord]) -> MaskingCheck:
    """Fails when more than 5 % of the images that were right before the attack came back practically unchanged.

    Attacks made for deterministic classifiers skip an image that one lucky draw misclassified.
    """
    name = f"{rows[0].source.title}: attack moves the images"
    asked = [row for row in rows if all(guess == row.label for guess in row.clean_predictions)]
    if not asked:
        return MaskingCheck(name, True, "No image was classified correctly on all draws before the attack.")
    share = sum(row.distance < UNMOVED * row.eps for row in asked) / len(asked)
    sentence = f"The attack left {percent(share)} of the correctly classified images where they were"
    end = "it gave up on them, so their robustness is untested" if share > HIDDEN else "it tried"
    return MaskingCheck(name, share <= HIDDEN, f"{sentence}: {end}.")


def attack_beats_asking_again(rows: Sequence[AttackedRecord]) -> MaskingCheck:
    """Fails unless the attack breaks significantly more images, over all draws, than clean queries of equal number.

    With K draws a randomised defence errs on some draw without any attack. Paired over images, exact. Fewer than seven
    images that differ prove nothing, whatever the attack: then the check cannot tell, unless there are seven images to
    break and none was broken.
    """
    name = f"{rows[0].source.title}: attack beats asking again"
    clean = [all(guess == row.label for guess in row.clean_predictions) for row in rows]
    attacked = [all(guess == row.label for guess in row.predictions) for row in rows]
    before, after = percent(sum(clean) / len(rows)), percent(sum(attacked) / len(rows))
    sentence = f"With all draws right: {before} of the clean and {after} of the attacked images"
    lost, won = turned(clean, attacked)
    if lost + won < FEWEST and (lost or sum(clean) < FEWEST):
        end = f"the two differ in {lost + won} images, too few to tell ({FEWEST} might)"
        return MaskingCheck(name, True, f"{sentence}: {end}.", decided=False)
    passed = beats(clean, attacked)
    end = "the attack does real harm" if passed else "no more harm is shown than asking as often without an attack does"
    return MaskingCheck(name, passed, f"{sentence}: {end}.")


def robust_is_not_above_clean(rows: Sequence[AttackedRecord]) -> MaskingCheck:
    """Fails when attacked images are classified significantly better than clean ones (first draws, paired, exact)."""
    clean = [row.clean_predictions[0] == row.label for row in rows]
    attacked = [row.predictions[0] == row.label for row in rows]
    passed = not beats(attacked, clean)
    after, before = percent(sum(attacked) / len(rows)), percent(sum(clean) / len(rows))
    sentence = f"First draws: {after} right under attack, {before} without"
    end = "as expected" if passed else "an attack that helps the defence is broken, perhaps in the sign of its loss"
    return MaskingCheck(f"{rows[0].source.title}: robust is not above clean", passed, f"{sentence}: {end}.")


def attack_breaks_the_baseline(rows: Sequence[AttackedRecord]) -> MaskingCheck:
    """Fails unless the same attack does significant harm to another classifier (first draws, paired, exact).

    An undefended network falls to any attack worth its name, an adversarially trained one loses something. If neither
    happens, the attack says nothing about a defence.
    """
    name = f"{rows[0].source.title}: attack breaks the baseline"
    clean = [row.clean_predictions[0] == row.label for row in rows]
    attacked = [row.predictions[0] == row.label for row in rows]
    before, after = percent(sum(clean) / len(rows)), percent(sum(attacked) / len(rows))
    sentence = f"Of the {rows[0].baseline} classifier's images {before} are right, {after} under the attack"
    if sum(clean) < FEWEST:
        return MaskingCheck(name, True, f"{sentence}: too few to tell ({FEWEST} right ones might).", decided=False)
    passed = beats(clean, attacked)
    end = "it works" if passed else "it does no harm even there, so it says nothing about the defence"
    return MaskingCheck(name, passed, f"{sentence}: {end}.")


def huge_budget_breaks_all(rows: Sequence[AttackedRecord], chance: float | None = None) -> MaskingCheck:
    """For an attack with a huge budget: fails when accuracy is significantly above ``chance`` (1 / classes seen)."""
    classes = len({row.label for row in rows})
    chance = 1 / max(classes, 2) if chance is None else chance
    (summary,) = summarise(rows)
    value, low, _ = summary.metrics["Avg"]
    sentence = f"With a budget of {rows[0].eps:.3g} in {rows[0].norm} {percent(value)} survive"
    end = "no more than guessing gives" if low <= chance else "a grey image is within reach, but the attack missed it"
    name = f"{rows[0].source.title}: a huge budget breaks everything"
    return MaskingCheck(name, low <= chance, f"{sentence}: {end}.")


def _share(rows: Sequence[AttackedRecord], flag: str) -> float:
    return sum(bool(getattr(row, flag)) for row in rows) / len(rows)


def _threat(rows: Sequence[AttackedRecord]) -> tuple[str, float]:
    return rows[0].norm, rows[0].eps


def _is_huge(rows: Sequence[AttackedRecord]) -> bool:
    norm, eps = _threat(rows)
    return rows[0].role is Role.HUGE_BUDGET or (norm in HUGE and eps >= HUGE[norm])


def _share_images(first: Sequence[AttackedRecord], second: Sequence[AttackedRecord]) -> bool:
    return not {row.index for row in first}.isdisjoint(row.index for row in second)
