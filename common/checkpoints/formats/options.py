"""The publishers' options -> the network they describe."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from itertools import chain
from types import UnionType
from typing import Any, Literal, get_args, get_origin

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

TYPES: dict[Any, tuple[Any, str]] = {
    int: (int, "an integer"),
    float: (int | float, "a number"),
    bool: (bool, "true or false"),
    Sequence: (list | tuple, "a list of numbers"),
    "names": (str, "a name"),
}
"""What an option may be, by the annotation of the argument that it becomes."""

NO_MATTER = {
    "score_sde": "beta_min beta_max ema_rate sde continuous",
    "guided_diffusion": "use_checkpoint use_fp16 diffusion_steps noise_schedule timestep_respacing rescale_timesteps "
    "rescale_learned_sigmas sigma_small use_kl predict_xstart",
    "edm": "model_type sigma_data sigma_min sigma_max use_fp16",
    "sdedit_ddpm": "ema ema_rate var_type beta_schedule beta_start beta_end num_diffusion_timesteps channels",
    "robustbench_wrn": "mean std",
}
"""Options that do not change the network; some of them tell how it is called and what it predicts."""

DATA = (
    "dataset category random_flip uniform_dequantization gaussian_dequantization logit_transform rescaled num_workers "
    "tfrecords_path"
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


ANYWHERE = ("image_size", "sde", "continuous")
"""Options that are read outside of sections too; the last two, from the section ``training``, are all it has to say."""


def flatten(config: Mapping[str, Any] | None) -> Options:
    """The publishers' options: those of ``config``, or of its sections ``data``, ``model`` and ``diffusion``.

    From the section ``training`` come the process (``sde``) and whether its time is ``continuous``.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f"config must be the publishers' options, by name; got a {type(config).__name__}: {config!r}.")
    config = dict(config or {})
    training = config.pop("training") if isinstance(config.get("training"), Mapping) else {}
    names = ("config",) if isinstance(config.get("config"), Mapping) else ("data", "model", "diffusion")
    sections = [config[name] for name in names if isinstance(config.get(name), Mapping)]
    outside = {name: place[name] for place in (config, training) for name in ANYWHERE if name in place}
    inside = chain.from_iterable(section.items() for section in sections) if sections else config.items()
    return {**outside, **dict(inside)}


def build(format: str, options: Options) -> nn.Module:
    """The body that ``options`` describe, on the meta device.

    Raises ``ValueError`` for an option that is unknown, missing, or has a value nobody implements.
    """
    if format == "guided_diffusion" and "num_channels" in options:
        options = _guided_script(options)
    kind = _kind(format, options)
    arguments = _arguments(format, kind, options)
    needed = [name for name, taken in signature(kind).parameters.items() if taken.default is taken.empty]
    _check_given(format, needed, arguments, options)
    for name, value in arguments.items():
        _check_type(name, signature(kind).parameters[name].annotation, value)
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except (RuntimeError, ArithmeticError) as error:
        raise ValueError(f"the config must describe a network; its sizes do not ({error}).") from error


def _check_type(name: str, annotation: Any, value: Any) -> None:
    """Raises ``ValueError`` unless ``value`` is what a constructor's argument of that annotation may be."""
    if get_origin(annotation) is UnionType:
        if value is None:
            return
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation) or annotation
    taken, what = TYPES["names" if origin is Literal else origin]
    items = value if origin is Sequence and isinstance(value, list | tuple) else []
    if not isinstance(value, taken) or not all(isinstance(item, int | float) for item in items):
        raise ValueError(f"option {name} must be {what}; got {value!r}. Correct the config.")


def _check_given(format: str, needed: Sequence[str], arguments: Options, options: Options) -> None:
    missing = [name for name in needed if name not in arguments]
    if missing:
        raise ValueError(
            f"a config for format {format} must have {', '.join(missing)}; it has "
            f"{', '.join(map(repr, options)) or 'no option at all'}. Take the publishers' options over as they are."
        )


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
            known = sorted({*takes, *only, *NO_MATTER[format].split()})
            near = get_close_matches(given, known, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(known)}."
            raise ValueError(f"format {format} has no option {given!r}. {hint}")
    return out


def _guided_script(options: Options) -> Options:
    """Guided and improved diffusion's options as their command line spells them -> as their network does."""
    options = dict(options)
    _check_given("guided_diffusion", ["image_size"], options, options)
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
