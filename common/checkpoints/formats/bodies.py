"""Published networks by format: the body that the publisher's options describe."""

from collections.abc import Sequence
from difflib import get_close_matches
from inspect import signature
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from torch import nn

from common.checkpoints.formats.options import Options, check_given, from_script
from common.checkpoints.state import without_weights
from common.diffusion.networks import ADM, EDMADM, DDPMpp, DDPMUNet, NCSNpp
from common.networks import WideResNet

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
"""Accepted types, and their name in messages, by the annotation of the constructor's argument."""

IGNORED = {
    "score_sde": "beta_min beta_max ema_rate sde continuous",
    "guided_diffusion": "use_checkpoint use_fp16 diffusion_steps noise_schedule timestep_respacing rescale_timesteps "
    "rescale_learned_sigmas sigma_small use_kl predict_xstart",
    "edm": "model_type sigma_data sigma_min sigma_max use_fp16",
    "sdedit_ddpm": "ema ema_rate var_type beta_schedule beta_start beta_end num_diffusion_timesteps channels",
    "robustbench_wrn": "mean std",
}
"""Options that do not change the network; some decide how it is called and what it predicts."""

IGNORED_DATA = (
    "dataset category random_flip uniform_dequantization gaussian_dequantization logit_transform rescaled num_workers "
    "tfrecords_path"
)

FIXED: dict[str, Options] = {
    "score_sde": {"name": "ncsnpp", "normalization": "GroupNorm", "attention_type": "ddpm", "conv_size": 3},
    "guided_diffusion": {"dims": 2},
    "sdedit_ddpm": {"type": "simple"},
}
"""Options with a single implemented value, here or by the publishers."""

RENAMED = {"robustbench_wrn": {"dropRate": "dropout", "drop_rate": "dropout"}}


def build_body(format: str, options: Options) -> nn.Module:
    """Network body described by ``options``, on the meta device.

    Raises ``ValueError`` for an option that is unknown or missing, or has a value that is not implemented.
    """
    if format == "guided_diffusion" and "num_channels" in options:
        options = from_script(options)
    kind = _body_class(format, options)
    arguments = _arguments(format, kind, options)
    required = [name for name, argument in signature(kind).parameters.items() if argument.default is argument.empty]
    check_given(format, required, arguments, options)
    for name, value in arguments.items():
        _check_type(name, signature(kind).parameters[name].annotation, value)
    try:
        with without_weights():
            return kind(**arguments)
    except (RuntimeError, ArithmeticError) as error:
        raise ValueError(f"the config must describe a network; its sizes do not ({error}).") from error


def _check_type(name: str, annotation: Any, value: Any) -> None:
    """Raise ``ValueError`` unless ``value`` fits a constructor argument with this annotation."""
    if get_origin(annotation) is UnionType:
        if value is None:
            return
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation) or annotation
    accepted, type_name = TYPES["names" if origin is Literal else origin]
    items = value if origin is Sequence and isinstance(value, list | tuple) else []
    if not isinstance(value, accepted) or not all(isinstance(item, int | float) for item in items):
        raise ValueError(f"option {name} must be {type_name}; got {value!r}. Correct the config.")


def _body_class(format: str, options: Options) -> type[nn.Module]:
    if format != "edm":
        return BODIES[format]
    name = options.get("model_type", "DhariwalUNet")
    if name not in EDM_BODIES:
        raise ValueError(f"model_type must be one of {', '.join(EDM_BODIES)}; got {name!r}.")
    return EDM_BODIES[name]


def _arguments(format: str, kind: type[nn.Module], options: Options) -> Options:
    parameters, fixed = signature(kind).parameters, FIXED.get(format, {})
    ignored = {*f"{IGNORED[format]} {IGNORED_DATA}".split()}
    out: Options = {}
    for given, value in options.items():
        name = RENAMED.get(format, {}).get(given, given)
        if name in parameters:
            out[name] = value
        elif name in fixed:
            if value != fixed[name]:
                raise ValueError(f"of option {name} only {fixed[name]!r} is implemented; got {value!r}.")
        elif name not in ignored:
            known = sorted({*parameters, *fixed, *IGNORED[format].split()})
            near = get_close_matches(given, known, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(known)}."
            raise ValueError(f"format {format} has no option {given!r}. {hint}")
    return out
