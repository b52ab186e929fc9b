"""The publishers' options -> the network they describe."""

from collections.abc import Mapping
from inspect import signature
from itertools import chain
from typing import Any

import torch
from torch import nn

from common.diffusion.networks import ADM, EDMADM, DDPMpp, DDPMUNet, NCSNpp
from common.networks import WideResNet

Options = dict[str, Any]

BODIES: dict[str, type[nn.Module]] = {
    "score_sde": NCSNpp,
    "guided_diffusion": ADM,
    "sdedit_ddpm": DDPMUNet,
    "robustbench_wrn": WideResNet,
}
EDM_BODIES: dict[str, type[nn.Module]] = {"SongUNet": DDPMpp, "DhariwalUNet": EDMADM}

NO_MATTER = {
    "score_sde": "beta_min beta_max ema_rate",
    "guided_diffusion": "use_checkpoint use_fp16 diffusion_steps noise_schedule timestep_respacing rescale_timesteps "
    "rescale_learned_sigmas use_kl predict_xstart",
    "edm": "model_type sigma_data sigma_min sigma_max use_fp16",
    "sdedit_ddpm": "ema ema_rate var_type beta_schedule beta_start beta_end num_diffusion_timesteps channels",
    "robustbench_wrn": "mean std",
}
"""Options that do not change the network; some of them tell how it is called."""

DATA = (
    "dataset category random_flip uniform_dequantization gaussian_dequantization logit_transform rescaled num_workers"
)

ONLY: dict[str, Options] = {
    "score_sde": {"name": "ncsnpp", "normalization": "GroupNorm", "attention_type": "ddpm", "conv_size": 3},
    "guided_diffusion": {"dims": 2},
    "sdedit_ddpm": {"type": "simple"},
}
"""Options of which only one value is implemented, here or by the publishers."""

RENAMED = {"robustbench_wrn": {"dropRate": "dropout", "drop_rate": "dropout"}}

GUIDED_WIDTHS: dict[int, tuple[float, ...]] = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def flatten(config: Mapping[str, Any] | None) -> Options:
    """The publishers' options: those of ``config``, or of its sections ``data``, ``model`` and ``diffusion``."""
    config = dict(config or {})
    if isinstance(config.get("config"), Mapping):
        size = {"image_size": config["image_size"]} if "image_size" in config else {}
        return {**size, **config["config"]}
    sections = [config[name] for name in ("data", "model", "diffusion") if isinstance(config.get(name), Mapping)]
    return dict(chain.from_iterable(section.items() for section in sections)) if sections else config


def build(format: str, options: Options) -> nn.Module:
    """The body that ``options`` describe, on the meta device.

    Raises ``ValueError`` for an option that is unknown, missing, or has a value nobody implements.
    """
    if format == "guided_diffusion" and "num_channels" in options:
        options = _guided_script(options)
    kind = _kind(format, options)
    arguments = _arguments(format, kind, options)
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"the config does not describe a {kind.__name__}: {error}.") from error


def _kind(format: str, options: Options) -> type[nn.Module]:
    if format != "edm":
        return BODIES[format]
    name = options.get("model_type", "DhariwalUNet")
    if name not in EDM_BODIES:
        raise ValueError(f"model_type must be one of {', '.join(EDM_BODIES)}; got {name!r}.")
    return EDM_BODIES[name]


def _arguments(format: str, kind: type[nn.Module], options: Options) -> Options:
    takes, free, only = signature(kind).parameters, set(f"{NO_MATTER[format]} {DATA}".split()), ONLY.get(format, {})
    out: Options = {}
    for given, value in options.items():
        name = RENAMED.get(format, {}).get(given, given)
        if name in takes:
            out[name] = value
        elif name in only:
            if value != only[name]:
                raise ValueError(f"of option {name} only {only[name]!r} is implemented; got {value!r}.")
        elif name not in free:
            known = ", ".join(sorted({*takes, *only, *NO_MATTER[format].split()}))
            raise ValueError(f"format {format} has no option {given!r}. It has {known}.")
    return out


def _guided_script(options: Options) -> Options:
    """Guided and improved diffusion's options as their command line spells them -> as their network does."""
    options = dict(options)
    size = int(options["image_size"])
    mult, sides = options.pop("channel_mult", ""), options.pop("attention_resolutions", "16,8")
    if not mult and size not in GUIDED_WIDTHS:
        raise ValueError(
            f"channel_mult has a default for image sizes {', '.join(map(str, GUIDED_WIDTHS))}; got {size}."
        )
    numbers = mult.split(",") if isinstance(mult, str) else mult
    return {
        "num_heads": 4,
        "use_scale_shift_norm": True,
        **{key: value for key, value in options.items() if key not in ("num_channels", "learn_sigma", "class_cond")},
        "model_channels": options["num_channels"],
        "out_channels": 6 if options.get("learn_sigma") else 3,
        "num_classes": 1000 if options.get("class_cond") else None,
        "channel_mult": [float(number) for number in numbers] if mult else GUIDED_WIDTHS[size],
        "attention_resolutions": [
            size // int(side) for side in (sides.split(",") if isinstance(sides, str) else sides)
        ],
    }
