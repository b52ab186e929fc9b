"""Pipelines of the diffusers library around an unconditional ``UNet2DModel``, as denoisers; an optional extra."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.diffusion.denoisers import EpsDenoiser, VDenoiser, X0Denoiser
from common.diffusion.schedules import DDPM

PREDICTIONS = {"epsilon": EpsDenoiser, "v_prediction": VDenoiser, "sample": X0Denoiser}


class PipelineNetwork(nn.Module):
    """A ``UNet2DModel`` called as other published networks: ``network(x, index)`` is its prediction, (B,C,H,W)."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        prediction: Tensor = self.unet(x, index, return_dict=False)[0]
        return prediction


def load_network(path: str | Path, download: bool = False) -> PipelineNetwork:
    """The network of the pipeline in folder ``path``, which a hub's name may stand for when ``download`` is true.

    Weights are read from safetensors alone. Raises ``ValueError`` where diffusers is not installed, the folder holds no
    such pipeline, or the network is class-conditional (its labels know no "none", which a denoiser here needs).
    """
    return PipelineNetwork(_unet(path, download)).eval()


def load_denoiser(path: str | Path, download: bool = False) -> EpsDenoiser:
    """The denoiser of the pipeline in folder ``path``; its scheduler says which levels and what is predicted.

    Arguments and errors as for `load_network`; schedulers other than linear in beta are refused.
    """
    config = _scheduler(path, download)
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    if kind != "linear" or config.get("trained_betas") is not None or prediction not in PREDICTIONS:
        raise ValueError(
            f"a pipeline's scheduler must be linear in beta and predict one of {', '.join(PREDICTIONS)}; {path} has "
            f"beta_schedule {kind!r} and prediction_type {prediction!r}"
        )
    steps = int(config.get("num_train_timesteps", 1000))
    schedule = DDPM(steps, float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02)))
    denoiser = PREDICTIONS[prediction](load_network(path, download), schedule, "nearest")
    return denoiser.eval()


def _unet(path: str | Path, download: bool) -> nn.Module:
    model = _library(path).UNet2DModel
    try:
        subfolder = "unet" if not Path(path).is_dir() or (Path(path) / "unet").is_dir() else None
        try:
            unet = model.from_pretrained(path, subfolder=subfolder, use_safetensors=True, local_files_only=not download)
        except OSError:
            if subfolder is None or Path(path).is_dir():
                raise
            unet = model.from_pretrained(path, use_safetensors=True, local_files_only=not download)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be the folder of a diffusers UNet2DModel with safetensors ({error})") from error
    if unet.config.num_class_embeds is not None or unet.config.class_embed_type is not None:
        raise ValueError(f"{path} holds a class-conditional UNet2DModel; only unconditional ones are denoisers here")
    network: nn.Module = unet
    return network


def _scheduler(path: str | Path, download: bool) -> dict[str, Any]:
    scheduler = _library(path).DDPMScheduler
    failure: Exception | None = None
    for subfolder in ("scheduler", None):
        try:
            return dict(scheduler.load_config(path, subfolder=subfolder, local_files_only=not download))
        except (OSError, ValueError) as error:
            failure = failure or error
    raise ValueError(f"{path} must hold a scheduler_config.json, in it or in its folder scheduler ({failure})")


def _library(path: str | Path) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(
            f'reading the pipeline {path} needs the diffusers library: pip install "robust-diffusion[diffusers]"'
        ) from error
    return diffusers
