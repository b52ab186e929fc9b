"""Preconditions of randomised smoothing: repeatable logits and independent samples.

The bound of `Smoothing` is that of independent samples f(x + sigma z_i, w_i), whose own draws w_i do not depend on the
clean image x. It holds for every such function f. It fails where f uses one w for all samples, reads the other rows of
its batch (noisy copies of the same x), or keeps state between calls.
"""

from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from common.noise import Noise
from common.records.fingerprint import identity
from common.records.rows import UNDETERMINED
from common.robustness.classifiers import Classifier, deployed
from common.robustness.padding import unpadded

_ROWS, _PART = 8, 5  # noisy copies per call; rows of the smaller call
_SEED_ROWS = 6  # rows that must follow the seed before a draw without effect counts as an error: votes often agree
_TOLERANCE = 0.02  # share of the spread between noisy copies; rounding and reduced precision stay well below
_CHANGED_SHARE = 0.25  # share of rows that may change by a tie, a vote or an eliminated class

Outputs = Callable[[Tensor, Noise], Tensor]
Reader = Callable[[Classifier, Tensor, Noise], Tensor]
"""``read(classifier, image, noise)``: the numbers (B,n) of a classifier that a certifier uses."""

Check = tuple[float, Reader | None]
"""Noise level, and numbers checked (None: logits)."""

_PASSED: WeakKeyDictionary[Classifier, dict[Check, str | None]] = WeakKeyDictionary()
"""Checks that a classifier has passed, each with the state in which it left the classifier."""


def check_once(classifier: Classifier, image: Tensor, sigma: float, noise: Noise, read: Reader | None = None) -> None:
    """`check_sound`, once per state of a classifier, noise level and ``read``; without the `Padded` wrapper of a test.

    The state is all that a classifier holds, weights included (`common.records.fingerprint`). One that cannot be
    determined, as with a closure inside, is checked at every call. ``read`` is compared by identity: pass a function
    or a method of the certifier, not a new closure in each call.
    """
    bare = unpadded(classifier)
    passed, key = _PASSED.setdefault(bare, {}), (sigma, read)
    if passed.get(key) is not None and passed[key] == _state(bare):
        return
    check_sound(bare, image, sigma, noise, None if read is None else partial(read, bare))
    passed[key] = _state(bare)


def _state(classifier: Classifier) -> str | None:
    """Fingerprint of all that a classifier holds; None if it cannot be determined."""
    run = identity({"classifier": classifier, "randomised": classifier.randomised})
    return None if UNDETERMINED in run.description else run.fingerprint


def check_sound(
    classifier: Classifier, image: Tensor, sigma: float, noise: Noise, outputs: Outputs | None = None
) -> None:
    """Check by 37 forward passes that smoothing at level ``sigma`` (pixels) may certify a classifier.

    Takes one image (1,C,H,W) in pixels and one row of noise; ``sigma`` is 0 for a certifier that adds none. Raises
    ``ValueError`` if logits are NaN, if the same call gives other logits, if they depend on a row's position or on
    the other rows of a batch, or if a classifier with ``randomised=True`` ignores its noise, or the noise's draw.
    Passing is necessary, not sufficient.

    ``outputs(image, noise)``: the numbers (B,n) that are checked; None for the logits. A certifier that reads more of
    its classifier than the logits passes them, above all if the logits may be the same for any noise.
    """
    evaluate = classifier if outputs is None else outputs
    rows = noise.draws(_ROWS)
    z = rows.stream("gaussian").normal(0, image.shape[1:], image.dtype)
    noisy = image + sigma * z
    reversed_part = torch.arange(_PART - 1, -1, -1, device=image.device)
    with deployed(classifier), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        logits, again = evaluate(noisy, rows), evaluate(noisy, rows)
        part = evaluate(noisy[reversed_part], rows.rows(reversed_part))
        other_seed = evaluate(noisy, rows.stream("other"))
        other_draw = evaluate(noisy, rows.rows(torch.arange(_ROWS, device=image.device).roll(1)))
    _check_numbers(logits, sigma)
    _check_repeatable(logits, again)
    _check_rows_independent(logits, part, reversed_part)
    if classifier.randomised:
        _check_fresh_noise(logits, other_seed, other_draw)


def _check_numbers(logits: Tensor, sigma: float) -> None:
    if bool(logits.isnan().any()):
        raise ValueError(
            "a certificate needs logits that are numbers; this classifier's logits are NaN at noise level "
            f"{sigma:g} (pixels). Check its weights and its precision"
        )


def _check_repeatable(logits: Tensor, again: Tensor) -> None:
    if _differ(logits, logits, again):
        raise ValueError(
            "a certificate needs a repeatable classifier: this one gives other logits for the same images and the "
            "same noise. Draw all its random numbers from the `noise` argument"
        )


def _check_rows_independent(logits: Tensor, part: Tensor, chosen: Tensor) -> None:
    if _differ(logits, logits[chosen], part):
        raise ValueError(
            "a certificate needs independent samples: this classifier's logits for an image depend on its place in "
            "the batch or on the other rows. Draw each row's noise from its own row of `noise`"
        )


def _check_fresh_noise(logits: Tensor, other_seed: Tensor, other_draw: Tensor) -> None:
    seed_rows, draw_rows = (int((other != logits).any(1).sum()) for other in (other_seed, other_draw))
    if not seed_rows:
        raise ValueError(
            "a certificate of a randomised classifier needs fresh noise: this one is randomised = True and gives the "
            "same logits for any `noise`. Its noise is fixed or computed from the image; without noise of its own, set "
            "randomised = False"
        )
    if seed_rows >= _SEED_ROWS and not draw_rows:
        raise ValueError(
            "a certificate of a randomised classifier needs fresh noise: this one gives the same logits for every draw "
            "of an image. Its noise must differ between draws (`Noise.draws`), not only between images; without noise "
            "of its own, set randomised = False"
        )


def _differ(all_rows: Tensor, expected: Tensor, actual: Tensor) -> bool:
    """True if more rows (n,K) changed than ties and rounding explain."""
    spread = (all_rows - all_rows.mean(0)).abs().amax(1).mean()
    rounding = 1e-4 * (1 + all_rows.abs().max())
    changed = ~((actual - expected).abs().amax(1) <= _TOLERANCE * spread + rounding)
    return bool(changed.double().mean() > _CHANGED_SHARE)
