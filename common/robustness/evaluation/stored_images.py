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
    """PNG in base64 of a pixel image (C,H,W) with C = 1 or 3."""
    file = io.BytesIO()
    to_pil(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def to_pil(image: Tensor) -> Image.Image:
    """Pixels (C,H,W), clamped to [0,1], as an image with 8 bits per channel; C is 1 or 3."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image must be (C,H,W) with 1 or 3 channels; got shape {tuple(image.shape)}")
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
