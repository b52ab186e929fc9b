"""Images stored in records, for the report: clean, attacked, and the defence's own views of the attacked image."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed


def stored_images(classifier: Classifier, image: Tensor, adv: Tensor, noise: Noise, first: int) -> list[dict[str, str]]:
    """Per image ``{view: PNG in base64}`` for an index below ``first``, ``{}`` for all others.

    Only images (C,H,W) with C = 1 or 3 are stored.
    """
    keep = (noise.index < first).nonzero().flatten()
    if image.shape[1] not in (1, 3):
        keep = keep[:0]
    stored: list[dict[str, str]] = [{} for _ in image]
    if not len(keep):
        return stored
    with torch.no_grad(), deployed(classifier), torch.autocast(image.device.type, enabled=False):
        views = {"clean": image[keep], "adversarial": adv[keep]} | classifier.views(adv[keep], noise.rows(keep))
    for row, position in enumerate(keep.tolist()):
        stored[position] = {name: encode(view[row]) for name, view in views.items()}
    return stored


def encode(image: Tensor) -> str:
    """PNG in base64, 8 bits per channel, of a pixel image (C,H,W) with C = 1 or 3."""
    grey = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(grey[..., 0] if grey.shape[-1] == 1 else grey).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
