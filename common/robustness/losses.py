"""Per-example losses (B,) that an attack maximises: logits z (B,K), label y (B,) int64, p = softmax(z)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from common.checks.settings import check_function
from common.naming.choices import choose

Loss = Callable[[Tensor, Tensor], Tensor]
TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """``-log p_y = log(1 + exp s)`` with ``s = log sum_{k != y} exp(z_k) - z_y``.

    This form is accurate where p_y is near one. In float32, for s < -17, log-softmax returns 0 and a gradient without
    the contribution of z_y, whose direction is wrong.
    """
    return functional.softplus(_without(logits, label).logsumexp(1) - _at(logits, label))


def margin(logits: Tensor, label: Tensor) -> Tensor:
    """``max_{k != y} z_k - z_y``: positive where the prediction is wrong (Carlini & Wagner, arXiv 1608.04644)."""
    return _best_other(logits, label) - _at(logits, label)


def soft_margin(logits: Tensor, label: Tensor) -> Tensor:
    """``log sigmoid(m)`` of the margin m: rises as m where it is far below 0, and levels off where m is above.

    A mean over draws of a randomised classifier therefore follows the draws that are still classified correctly, where
    that of the margin also follows those that are misclassified already.
    """
    return functional.logsigmoid(margin(logits, label))


def dlr(logits: Tensor, label: Tensor) -> Tensor:
    """Difference of logits ratio, ``-(z_y - max_{k != y} z_k) / (z_(1) - z_(3))`` with z sorted in decreasing order.

    Unlike the cross-entropy it is invariant to scale and shift of the logits, so it does not saturate for
    over-confident networks. Needs three classes. Croce & Hein, arXiv 2003.01690.
    """
    _need_classes(logits, 3, "dlr")
    top = logits.topk(3, dim=1).values
    return margin(logits, label) / _positive(top[:, 0] - top[:, 2])


def targeted_cross_entropy(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """``log p_t`` for a target class t != y."""
    return -cross_entropy(logits, target)


def targeted_margin(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """``z_t - z_y`` for a target class t != y; where it is positive, the image is misclassified."""
    return _at(logits, target) - _at(logits, label)


def targeted_dlr(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)`` for a target class t != y; needs four classes.

    Croce & Hein, arXiv 2003.01690.
    """
    _need_classes(logits, 4, "targeted_dlr")
    top = logits.topk(4, dim=1).values
    return targeted_margin(logits, label, target) / _positive(top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


def kl(logits: Tensor, reference: Tensor) -> Tensor:
    """``KL(p_reference || p) = sum_k q_k (log q_k - log p_k)``, ``q = softmax(reference)``: the loss of TRADES.

    ``reference`` (B,K) are the logits of the clean images; see Zhang et al., arXiv 1901.08573.
    """
    log_q = reference.log_softmax(1)
    return (log_q.exp() * (log_q - logits.log_softmax(1))).sum(1)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "soft_margin": soft_margin,
    "dlr": dlr,
}
TARGETED: dict[str, TargetedLoss] = {
    "targeted_cross_entropy": targeted_cross_entropy,
    "targeted_margin": targeted_margin,
    "targeted_dlr": targeted_dlr,
}


def as_loss(loss: str | Loss) -> Loss:
    """A loss of (logits, label), by its name in ``LOSSES`` or as it is; ``ValueError`` for an unknown name."""
    if isinstance(loss, str):
        return choose("loss", LOSSES, loss)
    checked: Loss = check_function("loss", loss, "a name of a loss, or a function of (logits, label)")
    return checked


def _at(logits: Tensor, label: Tensor) -> Tensor:
    return logits.gather(1, label[:, None]).squeeze(1)


def _best_other(logits: Tensor, label: Tensor) -> Tensor:
    return _without(logits, label).amax(1)


def _without(logits: Tensor, label: Tensor) -> Tensor:
    return logits.scatter(1, label[:, None], -torch.inf)


def _positive(gap: Tensor) -> Tensor:
    """A gap between sorted logits, at least the machine epsilon: where the gap is 0, so is the numerator."""
    return gap.clamp(min=torch.finfo(gap.dtype).eps)


def _need_classes(logits: Tensor, classes: int, name: str) -> None:
    if logits.shape[1] < classes:
        raise ValueError(f"{name} needs at least {classes} classes; got {logits.shape[1]}. Use margin.")
