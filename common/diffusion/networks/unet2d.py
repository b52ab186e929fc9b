"""Body of diffusers' unconditional pipelines (an optional extra)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from common.checks.settings import check_mapping


class UNet2D(nn.Module):
    """diffusers' ``UNet2DModel``: ``network(sample, timestep)`` is its prediction, (B,C,H,W).

    ``sample`` (B,C,H,W) model frame at unit variance, ``timestep`` (B,) the index of the noise level; ``options`` are
    the arguments of the model. Raises ``ValueError`` where diffusers is not installed, for options that describe no
    such model, and for a class-conditional model (it has no label for "no class", which a denoiser here needs).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        check_mapping("options", options, note="They are those of diffusers' UNet2DModel")
        options = {name: value for name, value in options.items() if not name.startswith("_")}
        if options.get("num_class_embeds") is not None or options.get("class_embed_type") is not None:
            raise ValueError("a UNet2DModel must be unconditional to be a denoiser here; this one takes classes.")
        try:
            self.unet: nn.Module = import_diffusers().UNet2DModel(**options)
        except (TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            raise ValueError(f"these options describe no UNet2DModel of the installed diffusers ({error}).") from error
        self.config = {"options": options}

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        prediction: Tensor = self.unet(sample, timestep, return_dict=False)[0]
        return prediction


def import_diffusers() -> Any:
    """The module ``diffusers``. Raises ``ValueError`` where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(
            'a pipeline of diffusers needs that library: pip install "robust-diffusion[diffusers]"'
        ) from error
    return diffusers
