"""Whether randomised smoothing may certify a classifier: is it a function of the noisy image and its own noise alone?

The bound of `Smoothing` is that of independent samples f(x + sigma z_i, w_i), with draws w_i that the clean image x
does not decide. It holds for any function f, however strange. It does not for one that keeps the same w for all
samples, that looks at the other noisy images of a call (which are those of the same x), or that remembers earlier ones.
"""

from weakref import WeakSet

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed, unpadded

_ROWS, _PART, _MOST = 8, 5, 6
_SOUND: WeakSet[Classifier] = WeakSet()  # those that passed
_ALIKE = 0.02  # of what the logits differ by between noisy images; rounding and precision stay well below
_CHANGED = 0.25  # share of the rows that may change all the same: by a tie, a vote or a class dropped


def check_sound(classifier: Classifier, image: Tensor, sigma: float, noise: Noise) -> None:
    """Asks the classifier 37 times about noisy copies of one image (1,C,H,W), pixels, with one row of noise.

    ``ValueError`` where an answer is NaN, or not the same again, where it depends on the place or the company in a
    call, and where a classifier that calls itself randomised does not heed its noise, or heeds its seed but not its
    draw. What it is asked for is what `Smoothing` asks. A function that passes may still have been made to deceive.
    """
    rows = noise.draws(_ROWS)
    z = rows.stream("gaussian").normal(0, image.shape[1:], image.dtype)
    noisy = image + sigma * z
    turned = torch.arange(_PART - 1, -1, -1, device=image.device)
    with deployed(classifier), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        first, again = classifier(noisy, rows), classifier(noisy, rows)
        part = classifier(noisy[turned], rows.rows(turned))
        other = classifier(noisy, rows.stream("other"))
        shifted = classifier(noisy, rows.rows(torch.arange(_ROWS, device=image.device).roll(1)))
    if bool(first.isnan().any()):
        raise ValueError("a certificate needs numbers: of a noisy image this classifier's logits are NaN")
    if _differ(first, first, again):
        raise ValueError(
            "a certificate needs a classifier that repeats itself: to the same noisy images with the same noise this "
            "one gives other answers. Let it draw all its random numbers from the `noise` that it is handed"
        )
    if _differ(first, first[turned], part):
        raise ValueError(
            "a certificate needs samples that are independent: what this classifier says of a noisy image depends on "
            "its place in the batch, or on the other images there. Let its noise come from its own row of `noise`"
        )
    # How many rows heed the noise's seed, and how many its draw: not all do where votes agree.
    seed, draw = (int((found != first).any(1).sum()) for found in (other, shifted))
    if classifier.randomised and not seed:
        raise ValueError(
            "a certificate of a randomised classifier is about fresh noise: this one is randomised = True and answers "
            "alike whatever `noise` it is handed. Its noise is fixed, or made from the image; if it has none, "
            "say randomised = False"
        )
    if classifier.randomised and seed >= _MOST and not draw:
        raise ValueError(
            "a certificate of a randomised classifier is about fresh noise: to one noisy image this one gives the same "
            "answer in every draw. Its noise must differ between the draws of an image (`Noise.draws`), not only "
            "between images; if it has none, say randomised = False"
        )


def check_once(classifier: Classifier, image: Tensor, sigma: float, noise: Noise) -> None:
    """`check_sound` of the classifier itself, without a test's `Steady`, unless it has passed before."""
    bare = unpadded(classifier)
    if bare not in _SOUND:
        check_sound(bare, image, sigma, noise)
        _SOUND.add(bare)


def _differ(all_of_them: Tensor, expected: Tensor, found: Tensor) -> bool:
    """Whether more rows (n,K) changed than chance and rounding explain."""
    natural = (all_of_them - all_of_them.mean(0)).abs().amax(1).mean()
    rounding = 1e-4 * (1 + all_of_them.abs().max())
    changed = ~((found - expected).abs().amax(1) <= _ALIKE * natural + rounding)
    return bool(changed.double().mean() > _CHANGED)
