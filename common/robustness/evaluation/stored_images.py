"""Pictures for the report: what an attack made of an image, and what the defence does with it."""

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed


def pictures(classifier: Classifier, image: Tensor, adv: Tensor, noise: Noise, first: int) -> list[dict[str, Any]]:
    """``{"images": {name: PNG}}`` for the images with an index below ``first``, ``{}`` for all others."""
    keep = (noise.index < first).nonzero().flatten()
    if image.shape[1] not in (1, 3):
        keep = keep[:0]
    found: list[dict[str, Any]] = [{} for _ in image]
    if not len(keep):
        return found
    with torch.no_grad(), deployed(classifier), torch.autocast(image.device.type, enabled=False):
        seen = {"clean": image[keep], "adversarial": adv[keep]} | classifier.views(adv[keep], noise.rows(keep))
    for row, position in enumerate(keep.tolist()):
        found[position] = {"images": {name: encode(views[row]) for name, views in seen.items()}}
    return found


def encode(image: Tensor) -> str:
    """A pixel image (C,H,W), C 1 or 3, as a PNG with 8 bits per channel, in base64."""
    grey = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(grey[..., 0] if grey.shape[-1] == 1 else grey).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
