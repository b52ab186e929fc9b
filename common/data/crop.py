"""Resizing and centre crop of images, as timm evaluates its models, without the normalisation."""

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, Normalize, ToTensor

from common.checks.settings import check_number, check_one_of, check_optional, check_size, check_text

CROP_ARGUMENTS = ("size", "crop_pct", "interpolation", "timm_model")  # of `Crop`, which its ``config`` states together


class Crop:
    """PIL image -> pixels (C,H,W), float32 in [0,1]: timm's evaluation transform without the normalisation.

    Resizes the shorter side to ``size / crop_pct`` by Pillow's ``interpolation`` and keeps the centre; without ``size``
    an image keeps its size. ``timm_model`` replaces these three by the settings of that model's own evaluation, at its
    training size where timm states another one for tests. Normalisation belongs to the classifier.

    ``config`` is timm's data config (``input_size``, ``crop_pct``, ``crop_mode``, ``interpolation``, …), None without
    resizing. Raises ``ValueError`` for values out of range and for an unknown timm model.
    """

    def __init__(
        self,
        size: int | None = None,
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
        timm_model: str | None = None,
    ) -> None:
        check_optional(check_size, "size, in pixels,", size, note="null leaves the size as it is")
        check_number("crop_pct, the share of the shorter side that is kept,", crop_pct, at_least=0.01, at_most=1)
        check_optional(check_text, "timm_model", timm_model)
        modes = [mode.value for mode in InterpolationMode if mode != InterpolationMode.NEAREST_EXACT]
        check_one_of("interpolation", interpolation, modes)
        self.config: dict[str, Any] | None = None
        self._transforms: list[Callable[[Any], Any]] = [ToTensor()]
        if timm_model is not None:
            self._use(_pretrained_config(timm_model))
        elif size is not None:
            self._use({"input_size": (3, size, size), "crop_pct": crop_pct, "interpolation": interpolation})

    def _use(self, config: dict[str, Any]) -> None:
        import timm  # only where images are resized

        self.config = timm.data.resolve_data_config(pretrained_cfg=config)
        transforms = timm.data.create_transform(**self.config, is_training=False).transforms
        self._transforms = [transform for transform in transforms if not isinstance(transform, Normalize)]

    @property
    def sides(self) -> tuple[int, int] | None:
        """(H,W) of the result; None if it is the size of the image."""
        return None if self.config is None else self.config["input_size"][1:]

    def __call__(self, image: Image.Image) -> Tensor:
        pixels: Any = image
        for transform in self._transforms:
            pixels = transform(pixels)
        cropped: Tensor = pixels
        return cropped


def _pretrained_config(model: str) -> dict[str, Any]:
    import timm

    try:
        config: dict[str, Any] = timm.models.get_pretrained_cfg(model, allow_unregistered=False).to_dict()
    except RuntimeError as error:
        raise ValueError(f"timm_model must be one of timm.list_models(); got {model!r} ({error})") from error
    return config
