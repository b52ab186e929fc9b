"""Batches of (image, label, index), checked where tests, attacks and training begin."""

import torch
from torch import Tensor

from common.robustness.classifiers import Classifier

Batch = tuple[Tensor, Tensor, Tensor]


def check_batch(batch: Batch) -> Batch:
    """Check a batch (image, label, index) of a test or of training and return it; see `Evaluator`."""
    if not isinstance(batch, tuple | list) or len(batch) != 3 or not all(isinstance(part, Tensor) for part in batch):
        got = f"{len(batch)} entries" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(
            f"a batch is (image, label, index), three tensors; got {got}. The index identifies the image in the "
            "data set: let the data set return it, so that records can be resumed and merged."
        )
    image, label, index = batch
    _check_image(image)
    for name, value in (("label", label), ("index", index)):
        if value.dtype != torch.int64 or value.shape != (len(image),):
            got = f"{value.dtype} of shape {tuple(value.shape)}"
            raise ValueError(f"{name} must be int64 (B,), one per image of {len(image)}; got {got}")
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < 2**32:
        raise ValueError(f"an index must be in 0 .. 2^32 - 1; got {int(index.min())} to {int(index.max())}")
    return image, label, index


def check_evaluation(classifier: Classifier, batch: Batch) -> Batch:
    """Check a batch on which ``classifier`` is evaluated and return it; see `Evaluator`."""
    if torch.is_inference_mode_enabled():
        raise ValueError("attacks and guidance need gradients, but inference mode is on: Trainer(inference_mode=False)")
    check_classifier(classifier)
    image, label, index = check_batch(batch)
    if image.dtype != torch.float32:
        raise ValueError(f"images must be float32: half precision would round the budget; got {image.dtype}")
    if len(set(index.tolist())) != len(index):
        raise ValueError(f"indices must be distinct within a batch; got {index.tolist()}")
    return image, label, index


def check_classifier(classifier: object) -> None:
    """Raise ``ValueError`` unless ``classifier`` is a `Classifier`."""
    if not isinstance(classifier, Classifier):
        kind = type(classifier).__name__
        raise ValueError(f"classifier must be a Classifier; got {kind}. Wrap a network as NetworkClassifier(network).")


def check_labels(label: Tensor, num_classes: int) -> None:
    """Raise ``ValueError`` unless every label is in 0..K-1."""
    if len(label) and not 0 <= int(label.min()) <= int(label.max()) < num_classes:
        got = f"{int(label.min())} to {int(label.max())}"
        raise ValueError(f"labels must be in 0..{num_classes - 1}, the classifier has {num_classes} classes; got {got}")


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(f"images must be floats (B,C,H,W); got {image.dtype} of shape {tuple(image.shape)}")
    if not bool(image.isfinite().all()):
        raise ValueError("images must be finite; got NaN or infinity")
    if image.numel() and not 0 <= float(image.min()) <= float(image.max()) <= 1:
        low, high = float(image.min()), float(image.max())
        raise ValueError(f"images must be in [0,1]; got {low:.4g} to {high:.4g}. The classifier normalises them.")
