"""Batches of (image, label, index), checked where tests, attacks and training begin."""

import torch
from torch import Tensor

from common.checks.images import check_labels, check_pixels
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
    check_pixels(image)
    check_labels(label, image)
    check_labels(index, image, "index")
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
