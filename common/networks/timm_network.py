"""Classifiers of the timm library by name, on pixels: normalisation is part of the network."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from common.checks.settings import check_flag, check_mapping, check_optional, check_size, check_text

FIXED = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments of ``timm.create_model`` that name weights or files: a description from elsewhere must not choose them."""


class TimmNetwork(nn.Module):
    """A timm model that takes pixels: (B,C,H,W) in [0,1] -> logits (B,K).

    Normalisation belongs to the weights: it is part of the network, with timm's mean and standard deviation, so budgets
    and noise stay in pixels. ``data_config`` is timm's: ``input_size`` (C,H,W), ``interpolation``, ``mean``, ``std``,
    ``crop_pct``, ``crop_mode``. Cropping belongs to the data: ``timm_model`` of `common.data.Folder`.

    Args:
        name: of the model, e.g. "resnet50.tv_in1k"; see ``timm.list_models()``.
        num_classes: K; None keeps the number the weights were trained for.
        pretrained: download timm's weights, to timm's cache.
        in_channels: C.
        normalise: False for input that is normalised already.
        resize: resample images of another size to ``input_size`` by timm's ``interpolation`` with antialiasing,
            differentiably and without cropping; e.g. an image purified at 256 and classified at 224. Bicubic
            resampling may leave [0,1]; it is not clamped.
        options: further arguments of ``timm.create_model``, e.g. ``{"act_layer": "silu", "norm_layer": "groupnorm"}``.
        small_images: give a ResNet the stem for images of 32x32 or less: a 3x3 convolution of stride 1, no pooling
            (He et al., arXiv 1512.03385, section 4.2).

    ``config`` holds the arguments, the last two where given. Raises ``ValueError`` for an unknown name, and for
    ``small_images`` with a network that has no ResNet stem.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        num_classes: int | None = None,
        pretrained: bool = False,
        in_channels: int = 3,
        normalise: bool = True,
        resize: bool = False,
        options: dict[str, Any] | None = None,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        check_text("name", name)
        check_optional(check_size, "num_classes", num_classes)
        check_size("in_channels", in_channels)
        check_optional(check_mapping, "options", options)
        flags = {"pretrained": pretrained, "normalise": normalise, "resize": resize, "small_images": small_images}
        for argument, setting in flags.items():
            check_flag(argument, setting)
        if fixed := sorted(FIXED & {*(options or {})}):
            raise ValueError(
                f"options of a timm model cannot set {', '.join(fixed)}, which name other weights or files."
            )
        import timm  # imported on use: slow

        tagged = timm.list_models(pretrained=True)
        if not timm.is_model(name) or ("." in name and name not in tagged):
            close = ", ".join(get_close_matches(name, [*timm.list_models(), *tagged])) or "one of timm.list_models()"
            raise ValueError(f"name: timm has no model {name!r}. Did you mean {close}?")
        self.config: dict[str, Any] = {
            "name": name,
            "num_classes": num_classes,
            "pretrained": False,  # the weights of a rebuilt network come from its checkpoint
            "in_channels": in_channels,
            "normalise": normalise,
            "resize": resize,
            **({"options": options} if options else {}),
            **({"small_images": True} if small_images else {}),
        }
        extra = {**({} if num_classes is None else {"num_classes": num_classes}), **(options or {})}
        self.model: nn.Module = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **extra)
        if small_images:
            _replace_stem(self.model, name)
        data_config = timm.data.resolve_model_data_config(self.model)
        self.data_config = {
            key: list(value) if isinstance(value, tuple) else value for key, value in data_config.items()
        }
        for key in ("mean", "std"):
            value = torch.tensor(self.data_config[key], dtype=torch.float32, device="cpu")
            if len(value) != in_channels:  # other channels than RGB: the average of the colours
                value = value.mean().expand(in_channels)
            self.register_buffer(key, value.reshape(-1, 1, 1).clone(), persistent=False)
        self.normalise, self.resize = normalise, resize

    def forward(self, image: Tensor) -> Tensor:
        if self.resize:
            image = self._resized(image)
        if self.normalise:
            image = (image - self.mean) / self.std
        logits: Tensor = self.model(image)
        return logits

    def _resized(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import InterpolationMode  # already imported by timm
        from torchvision.transforms.v2.functional import resize

        size, interpolation = self.data_config["input_size"][-2:], InterpolationMode(self.data_config["interpolation"])
        resized: Tensor = resize(image, size, interpolation, antialias=True)  # unchanged if it has that size
        return resized


def _replace_stem(model: nn.Module, name: str) -> None:
    first = getattr(model, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(model, "maxpool"):
        raise ValueError(f"small_images replaces the first convolution and the pooling of a ResNet; {name} has none.")
    model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
