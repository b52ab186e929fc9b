"""Any classifier of the timm library by name, reading pixels: it normalises as its weights expect."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn


class TimmNetwork(nn.Module):
    """A timm model that takes pixels: (B,C,H,W) in [0,1] -> logits (B,K).

    Normalisation belongs to the weights, so it happens inside, with the mean and standard deviation that timm states
    for them; budgets and noise outside stay in pixels. ``data_config`` holds all that timm states: ``input_size``
    (C,H,W), ``interpolation``, ``mean``, ``std``, ``crop_pct``, ``crop_mode``. Cropping belongs to the data: the
    ``timm_model`` of a data module of pictures.

    Args:
        name: of the model, e.g. "resnet50.tv_in1k"; see ``timm.list_models()``.
        num_classes: K; None keeps the number the weights were trained for.
        pretrained: download timm's weights (its own cache and checks).
        in_channels: C.
        normalise: False if something outside already normalises.
        resize: resample images of another size to ``input_size``, by the ``interpolation`` that timm states, with
            antialiasing, as torchvision does with tensors, differentiably; e.g. an image purified at 256 and classified
            at 224. Nothing is cut off. Bicubic resampling may leave [0,1]; it is not clamped.
        options: further arguments of ``timm.create_model``, e.g. ``{"act_layer": "silu", "norm_layer": "groupnorm"}``.
        small_images: give a ResNet the stem for images of 32x32 or less: a 3x3 convolution of stride 1, no pooling
            (He et al., arXiv 1512.03385, section 4.2).

    ``config`` holds the arguments, the last two where given. Raises ``ValueError`` for a name that timm does not know,
    and for ``small_images`` where there is no ResNet's stem to replace.
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
        import timm  # slow to import, and only this class needs it

        tagged = timm.list_models(pretrained=True)
        if not timm.is_model(name) or ("." in name and name not in tagged):
            close = ", ".join(get_close_matches(name, [*timm.list_models(), *tagged])) or "one of timm.list_models()"
            raise ValueError(f"timm has no model {name!r}. Did you mean {close}?")
        self.config: dict[str, Any] = {
            "name": name,
            "num_classes": num_classes,
            "pretrained": False,  # a rebuilt network takes its weights from the checkpoint that holds this config
            "in_channels": in_channels,
            "normalise": normalise,
            "resize": resize,
            **({"options": options} if options else {}),
            **({"small_images": True} if small_images else {}),
        }
        more = {**({} if num_classes is None else {"num_classes": num_classes}), **(options or {})}
        self.model: nn.Module = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **more)
        if small_images:
            _replace_stem(self.model, name)
        stated = timm.data.resolve_model_data_config(self.model)
        self.data_config = {key: list(value) if isinstance(value, tuple) else value for key, value in stated.items()}
        for key in ("mean", "std"):
            value = torch.tensor(self.data_config[key], dtype=torch.float32, device="cpu")
            if len(value) != in_channels:  # grey or many-channel images: the colours' average
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
        from torchvision.transforms.v2 import InterpolationMode  # timm has imported torchvision already
        from torchvision.transforms.v2.functional import resize

        size, interpolation = self.data_config["input_size"][-2:], InterpolationMode(self.data_config["interpolation"])
        resized: Tensor = resize(image, size, interpolation, antialias=True)  # the same image if it is of that size
        return resized


def _replace_stem(model: nn.Module, name: str) -> None:
    first = getattr(model, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(model, "maxpool"):
        raise ValueError(
            f"small_images replaces the first convolution and the pooling of a ResNet; {name} has no such."
        )
    model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
