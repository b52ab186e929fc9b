"""Losses against their formulas in numpy, one example at a time, and their invariances."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from common.robustness.losses import LOSSES, as_loss, cross_entropy, dlr, kl, margin, targeted_dlr

GENERATOR = torch.Generator().manual_seed(1)
LOGITS = 3 * torch.randn(40, 6, generator=GENERATOR, dtype=torch.float64)
LABEL = torch.randint(6, (40,), generator=GENERATOR)
TARGET = (LABEL + 2) % 6


def rows():
    return zip(LOGITS.numpy(), LABEL.tolist(), TARGET.tolist(), strict=True)


def assert_agree(loss, expected):
    assert loss.shape == (40,)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12)


def test_cross_entropy():
    assert_agree(cross_entropy(LOGITS, LABEL), [-np.log(softmax(z)[y]) for z, y, _ in rows()])


def test_margin():
    assert_agree(margin(LOGITS, LABEL), [np.delete(z, y).max() - z[y] for z, y, _ in rows()])
    assert torch.equal(margin(LOGITS, LABEL) > 0, LOGITS.argmax(1) != LABEL)


def test_dlr():
    expected = []
    for z, y, _ in rows():
        first, _, third = np.sort(z)[::-1][:3]
        expected.append(-(z[y] - np.delete(z, y).max()) / (first - third))
    assert_agree(dlr(LOGITS, LABEL), expected)


def test_targeted_dlr():
    expected = []
    for z, y, t in rows():
        first, _, third, fourth = np.sort(z)[::-1][:4]
        expected.append(-(z[y] - z[t]) / (first - (third + fourth) / 2))
    assert_agree(targeted_dlr(LOGITS, LABEL, TARGET), expected)


def test_dlr_ignores_scale_and_shift_and_the_others_do_not():
    moved = 7 * LOGITS - 5
    assert_agree(dlr(moved, LABEL), dlr(LOGITS, LABEL))
    assert_agree(targeted_dlr(moved, LABEL, TARGET), targeted_dlr(LOGITS, LABEL, TARGET))
    assert not torch.allclose(margin(moved, LABEL), margin(LOGITS, LABEL))


def test_kl():
    reference = LOGITS.flip(0)
    q, p = softmax(reference.numpy(), 1), softmax(LOGITS.numpy(), 1)
    assert_agree(kl(LOGITS, reference), rel_entr(q, p).sum(1))
    assert float(kl(LOGITS, LOGITS).abs().max()) < 1e-14


@pytest.mark.parametrize("name", LOSSES)
def test_losses_rise_with_other_logits_and_fall_with_the_labels(name):
    logits = LOGITS.clone().requires_grad_()
    gradient = torch.autograd.grad(as_loss(name)(logits, LABEL).sum(), logits)[0]
    correct = LOGITS.argmax(1) == LABEL  # where the label is not among the first three, DLR may do either
    assert bool((gradient.gather(1, LABEL[:, None])[correct] <= 1e-12).all())
    assert float(gradient.gather(1, LABEL[:, None]).sum()) < 0


def test_equal_logits_give_finite_losses_and_gradients():
    for loss in LOSSES.values():
        logits = torch.zeros(2, 5, requires_grad=True)
        value = loss(logits, torch.tensor([0, 4]))
        assert bool(value.isfinite().all())
        assert bool(torch.autograd.grad(value.sum(), logits)[0].isfinite().all())


def test_too_few_classes_and_unknown_names_raise():
    with pytest.raises(ValueError, match="dlr needs at least 3 classes; got 2"):
        dlr(LOGITS[:, :2], LABEL % 2)
    with pytest.raises(ValueError, match="targeted_dlr needs at least 4 classes; got 3"):
        targeted_dlr(LOGITS[:, :3], LABEL % 3, TARGET % 3)
    with pytest.raises(ValueError, match="cross_entropy, margin, soft_margin, dlr; got 'hinge'"):
        as_loss("hinge")
