"""Pipelines of the diffusers library (an optional extra) with an unconditional ``UNet2DModel``, as denoisers."""

from pathlib import Path
from typing import Any

import torch

from common.checkpoints.state import assign_state, bounded
from common.checks.bounds import check_bound
from common.diffusion.denoisers import EpsDenoiser, VDenoiser, X0Denoiser
from common.diffusion.networks.unet2d import UNet2D, import_diffusers
from common.diffusion.schedules import DDPM, Betas

PREDICTIONS = {"epsilon": EpsDenoiser, "v_prediction": VDenoiser, "sample": X0Denoiser}
BETAS: dict[Any, Betas] = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


def read_network(path: str | Path, download: bool = False) -> UNet2D:
    """The network of the pipeline in folder ``path``, or of that name on the Hugging Face hub if ``download`` is true.

    Weights are read from safetensors only. Raises ``ValueError`` where diffusers is not installed, the folder holds no
    such pipeline, or the network is class-conditional.
    """
    model, local = import_diffusers().UNet2DModel, _is_folder(path, download)
    numbers = sum(file.stat().st_size for file in weight_files(Path(path))) // 2 if local else None
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": not download, "low_cpu_mem_usage": False}
    try:
        subfolder = "unet" if not local or (Path(path) / "unet").is_dir() else None
        try:
            with bounded(numbers):  # config.json may name any size
                unet = model.from_pretrained(path, subfolder=subfolder, **options)
        except OSError:
            if subfolder is None or local:
                raise
            unet = model.from_pretrained(path, **options)
    except Exception as error:  # of the library, the hub or a damaged file
        raise ValueError(
            f"{path} must be the folder of a diffusers UNet2DModel with safetensors weights; it is not "
            f"({_first_line(error)})."
        ) from error
    with torch.device("meta"):
        network = UNet2D(unet.config)
    state = {f"unet.{name}": value for name, value in unet.state_dict().items()}
    assign_state(network, state, str(path))
    return network


def read_denoiser(path: str | Path, download: bool = False) -> EpsDenoiser:
    """The denoiser of the pipeline in folder ``path``; its scheduler states the noise levels and the prediction.

    Arguments and errors as for `read_network`, and ``ValueError`` for a scheduler with another beta schedule than those
    of ``DDPM``.
    """
    config = _scheduler_config(path, download)
    betas, prediction = config.get("beta_schedule"), config.get("prediction_type", "epsilon")
    changed = [name for name in ("trained_betas", "rescale_betas_zero_snr") if config.get(name)]
    if betas not in BETAS or prediction not in PREDICTIONS or changed:
        came = f"beta_schedule {betas!r}, prediction_type {prediction!r}" + "".join(f" and {name}" for name in changed)
        raise ValueError(
            f"a pipeline's scheduler must have beta_schedule {', '.join(map(repr, BETAS))}, and prediction_type "
            f"{', '.join(map(repr, PREDICTIONS))}; {path} has {came}. load_network loads the network alone."
        )
    steps = int(config.get("num_train_timesteps", 1000))
    check_bound("size", steps, f"num_train_timesteps of {path}")
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    denoiser = PREDICTIONS[prediction](read_network(path, download), DDPM(steps, start, end, BETAS[betas]), "nearest")
    return denoiser.eval()


def weight_files(path: Path) -> list[Path]:
    """Weight files of the network in a pipeline's folder, in order of their names."""
    return sorted((path / "unet" if (path / "unet").is_dir() else path).glob("*.safetensors"))


def _is_folder(path: str | Path, download: bool) -> bool:
    """True if ``path`` is a folder. Raises ``FileNotFoundError`` if it cannot be a name on the hub either."""
    if Path(path).is_dir():
        return True
    if not download and (Path(path).is_absolute() or str(path).count("/") != 1):
        raise FileNotFoundError(f"there is no folder {path} with a pipeline. Check the path, or fetch the pipeline.")
    return False


def _scheduler_config(path: str | Path, download: bool) -> dict[str, Any]:
    scheduler = import_diffusers().DDPMScheduler
    _is_folder(path, download)
    failure: Exception | None = None
    for subfolder in ("scheduler", None):
        try:
            return dict(scheduler.load_config(path, subfolder=subfolder, local_files_only=not download))
        except (OSError, ValueError) as error:
            failure = failure or error
    raise ValueError(
        f"{path} must hold a scheduler_config.json, in it or in its folder scheduler; it does not "
        f"({_first_line(failure)})."
    )


def _first_line(error: Exception | None) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
