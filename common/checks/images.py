"""Images, labels and noise where they enter, and the outputs of parts from elsewhere.

Shapes and dtypes are read without waiting for a device. Finiteness and range are not: they are checked once at an
entry, not at every call of a network, and where many checks follow each other they are looked at together
(`common.checks.deferred`).
"""

import math
import warnings
from collections.abc import Callable, Sized
from typing import Any

import torch
from torch import Tensor, nn

from common.checks.deferred import check_values
from common.units import to_pixel

FARTHEST = 20.0
"""Farthest pixel value of an image in [0,1] with Gaussian noise: about 4 standard deviations of 5."""
_OUTSIDE = 0.1  # a pixel value farther from [0,1] is outside of it
_CLOSER = 16.0  # ratio of squared distances to the input, above which images are in [-1,1]
_MOSTLY = 0.25  # share of pixels outside above which an image is in another frame, or destroyed


class OutputError(ValueError):
    """Output of a network or classifier that is not logits."""


def check_layout(image: Any) -> Tensor:
    """Images as floats (B,C,H,W). Raises ``ValueError``, as every function here does."""
    if not isinstance(image, Tensor):
        raise ValueError(f"images must be a tensor (B,C,H,W); got a {type(image).__name__}")
    if image.ndim != 4 or not image.is_floating_point():
        remedy = "" if image.is_floating_point() else ". Write image.float() / 255"
        raise ValueError(f"images must be floats (B,C,H,W); got {image.dtype} of shape {tuple(image.shape)}{remedy}")
    if image.is_meta:
        raise ValueError("images must have values; got a tensor on the meta device. Move data to cpu or cuda")
    return image


def check_finite(image: Any) -> Tensor:
    """Finite images as floats (B,C,H,W), of any range."""
    return _in_range(image)


def check_near_pixels(image: Any) -> Tensor:
    """Finite images (B,C,H,W) in about [0,1]: with noise, or a little outside, but not in other units."""

    def judge(low: float, high: float) -> None:
        if not -FARTHEST <= low <= high <= FARTHEST:
            raise ValueError(f"images must be in [0,1], up to noise; got {low:.4g} to {high:.4g}. Write image / 255")

    return _in_range(image, judge)


def check_pixels(image: Any) -> Tensor:
    """Finite images (B,C,H,W) in [0,1]."""

    def judge(low: float, high: float) -> None:
        if not 0 <= low <= high <= 1:
            raise ValueError(f"images must be in [0,1]; got {low:.4g} to {high:.4g}. The classifier normalises them.")

    return _in_range(image, judge)


def _in_range(image: Any, judge: Callable[[float, float], None] | None = None) -> Tensor:
    """Finite images whose lowest and highest value pass the ``judge``; those of an empty batch do."""

    def finite(values: list[float]) -> None:
        low, high = values  # of one pass: NaN is the lowest and the highest of any values
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError("images must be finite; got NaN or infinity")
        if judge is not None:
            judge(low, high)

    checked = check_layout(image)
    if checked.numel():
        check_values(torch.stack(checked.detach().aminmax()), finite)
    return checked


def check_full_precision(image: Tensor) -> None:
    """Images in float32 or float64: half precision rounds budgets and noise."""
    if image.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"images must be float32: half precision would round the budget; got {image.dtype}")


def check_weights_dtype(image: Tensor, network: nn.Module) -> None:
    """Images in at least the precision of a network's weights, unless autocast is on."""
    half = (torch.float16, torch.bfloat16)
    if image.dtype in half and not torch.is_autocast_enabled(image.device.type):
        weights = next((value.dtype for value in network.parameters() if value.is_floating_point()), image.dtype)
        if weights not in half:
            raise ValueError(f"images must be float32, as the weights are {weights}; got {image.dtype}. Use .float()")


def check_labels(label: Any, image: Tensor, name: str = "label") -> Tensor:
    """One class (B,) int64 per image, on the images' device."""
    if not isinstance(label, Tensor) or label.dtype != torch.int64 or label.shape != (len(image),):
        got = f"{label.dtype} of shape {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
        raise ValueError(f"{name} must be int64 (B,), one per image of {len(image)}; got {got}")
    check_device(name, label, image)
    return label


def check_classes(label: Tensor, classes: int) -> None:
    """Labels in 0..K-1 for K = ``classes``."""
    low, high = torch.stack(label.aminmax()).tolist() if len(label) else (0, 0)
    if not 0 <= low <= high < classes:
        got = f"{low} to {high}"
        raise ValueError(f"labels must be in 0..{classes - 1}, the classifier has {classes} classes; got {got}")


def check_class_count(declared: int | None, classes: int, part: str = "the classifier") -> None:
    """As many classes in the data as in a ``part``; ``declared`` is None where the data does not say."""
    if declared not in (None, classes):
        raise ValueError(
            f"the data has {declared} classes, {part} {classes}: they must be as many, else labels mean other classes. "
            "Is a class folder missing? classes of a Folder lists them all"
        )


def check_device(name: str, value: Tensor, image: Tensor) -> None:
    """A tensor on the images' device."""
    if value.device != image.device:
        raise ValueError(f"{name} must be on the images' device, {image.device}; got {value.device}. Move it by .to()")


def check_rows(noise: Sized, image: Tensor) -> None:
    """One row of noise per image."""
    if len(noise) != len(image):
        got = f"{len(image)} images, {len(noise)} rows"
        raise ValueError(f"noise must have a row of noise per image; got {got}. Use noise.draws(n)")


def check_shape(part: str, output: Any, image: Tensor) -> Tensor:
    """Output of a ``part`` that maps images to images of the same shape, as floats."""
    if not isinstance(output, Tensor) or output.shape != image.shape or not output.is_floating_point():
        shape = tuple(image.shape)
        broadcast = isinstance(output, Tensor) and tuple(output.shape) == (shape[0], *shape)
        remedy = ". The shape of noise is that of one image: noise.normal(step, image.shape[1:])" if broadcast else ""
        raise ValueError(f"{part} must return floats of shape {shape}, its input's; got {_got(output)}{remedy}")
    return output


def check_like(part: str, output: Any, image: Tensor) -> Tensor:
    """As `check_shape`, in the dtype of the input; under autocast in any."""
    checked = check_shape(part, output, image)
    if checked.dtype != image.dtype and not torch.is_autocast_enabled(image.device.type):
        raise ValueError(f"{part} must return {image.dtype}, its input's dtype; got {checked.dtype}")
    return checked


def check_purified(output: Any, image: Tensor) -> Tensor:
    """Finite output of a purifier, which need not be clipped. Raises ``ValueError`` for grey levels of 0 to 255 and for
    images of the model frame, [-1,1], and warns of others that are mostly outside of [0,1].
    """
    checked = check_like("a purifier", output, image)
    if checked.numel():
        check_values(_of_purified(checked.detach(), image.detach()), _judge_purified)
    return checked


def _of_purified(output: Tensor, image: Tensor) -> Tensor:
    """Values of a purified batch: 1 if nearer to its input in another frame, share outside of [0,1], ends of rows."""
    error = (output - image).square().mean()
    closer = _CLOSER * (to_pixel(output) - image).square().mean() < error
    outside = ((output - 0.5).abs() > 0.5 + _OUTSIDE).to(output.dtype).mean()
    low, high = output.flatten(1).aminmax(dim=1)  # NaN is the lowest and the highest of a row
    return torch.cat((torch.stack((closer.to(output.dtype), outside)), low, high))


def _judge_purified(values: list[float]) -> None:
    """A purifier returns images of the frame of its input, which they resemble."""
    closer, outside, *ends = values
    count = len(ends) // 2
    rows = [row for row in range(count) if not (math.isfinite(ends[row]) and math.isfinite(ends[count + row]))]
    if rows:
        raise ValueError(f"a purifier must return finite images; got NaN or infinity in rows {rows[:8]} of the batch")
    low, high = min(ends), max(ends)
    span = f"{low:.4g} to {high:.4g}"
    if low >= -1 and high > FARTHEST:  # a network under attack may leave [0,1] on both sides
        raise ValueError(f"a purifier must return pixels in about [0,1]; got {span}. Divide by 255")
    if low >= -_OUTSIDE and high <= 1 + _OUTSIDE:
        return
    if closer:
        raise ValueError(
            f"a purifier must return pixels in [0,1]; got {span}, images of [-1,1]. Let it end with (x + 1) / 2"
        )
    if outside > _MOSTLY:
        warnings.warn(
            f"a purifier should return pixels in [0,1]: more than {_MOSTLY:.0%} of its values are outside, so it may "
            "return images of another frame, which the classifier behind it does not expect",
            stacklevel=2,
        )


def check_logits(output: Any, rows: int, part: str = "a classifier") -> Tensor:
    """Logits (B,K) of a classifier for B = ``rows`` images, as floats."""
    plain = isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point()
    if not plain or len(output) != rows or output.shape[1] < 1:
        advice = "" if isinstance(output, Tensor) else ". Return its logits alone"
        raise OutputError(
            f"{part} returns logits (B, K), a tensor of floats for {rows} images; got {_got(output)}{advice}"
        )
    checked: Tensor = output
    return checked


def check_losses(output: Any, rows: int) -> Tensor:
    """Values (B,) of a loss for B = ``rows`` rows of logits, as floats."""
    if not isinstance(output, Tensor) or output.shape != (rows,) or not output.is_floating_point():
        advice = ". Average nothing: reduction='none'" if isinstance(output, Tensor) and not output.ndim else ""
        raise ValueError(
            f"loss must return floats of shape ({rows},), one per row of logits; got {_got(output)}{advice}"
        )
    return output


def _got(output: Any) -> str:
    return f"{output.dtype} of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
