"""Published networks as denoisers: convention of the noise level and prediction, from the publisher's options."""

from torch import nn

from common.checkpoints.formats.options import Options
from common.diffusion.denoisers import Denoiser, EDMDenoiser, EpsDenoiser, X0Denoiser
from common.diffusion.networks import ADM
from common.diffusion.schedules import DDPM, VP, Betas
from common.diffusion.score_denoiser import ScoreDenoiser
from common.units import sigma_to_model

ADVICE = "load_network loads the network alone"

BETAS: dict[str, dict[str, Betas]] = {
    "guided_diffusion": {"linear": "linear", "cosine": "cosine"},
    "sdedit_ddpm": {"linear": "linear", "quad": "scaled_linear"},
}
"""The publishers' names of beta schedules."""


def build_denoiser(format: str, body: nn.Module, options: Options) -> Denoiser:
    """Denoiser around ``body``, exact at the noise levels of its training.

    Raises ``ValueError`` for noise levels, labels or predictions that are not implemented.
    """
    if format == "edm":
        return edm_denoiser(body, options)
    if format == "score_sde":
        return _score_sde(body, options)
    return _indexed(format, body, options)


def edm_denoiser(body: nn.Module, options: Options) -> EDMDenoiser:
    """EDM's preconditioning (arXiv 2206.00364, table 1)."""
    return EDMDenoiser(body, float(options.get("sigma_data", 0.5)), int(options.get("label_dim") or 0) or None)


def _indexed(format: str, body: nn.Module, options: Options) -> Denoiser:
    """Guided and improved diffusion, Ho et al.: indexed noise levels, with the index rescaled to 0 .. 1000 on request.

    Respacing skips noise levels in sampling; the network was trained on all of them.
    """
    steps = int(options.get("diffusion_steps") or options.get("num_diffusion_timesteps") or 1000)
    kind = options.get("noise_schedule", options.get("beta_schedule", "linear"))
    if kind not in BETAS[format]:
        raise ValueError(
            f"a {format} denoiser needs one of the noise schedules {', '.join(BETAS[format])}; got {kind!r}. {ADVICE}."
        )
    rescaled = options.get("rescale_timesteps")
    if format == "guided_diffusion" and steps != 1000 and rescaled is None:
        raise ValueError(
            f"with diffusion_steps {steps} the config must state rescale_timesteps; it does not. "
            "Its default is true in improved diffusion's scripts and false in guided diffusion's."
        )
    ends = (0.1 / steps, 20 / steps) if format == "guided_diffusion" else (1e-4, 0.02)
    start, end = (float(options.get(name, given)) for name, given in zip(("beta_start", "beta_end"), ends, strict=True))
    kind_of = X0Denoiser if options.get("predict_xstart") else EpsDenoiser
    return kind_of(
        body,
        DDPM(steps, start, end, BETAS[format][kind]),
        "nearest",
        num_classes=body.num_classes if isinstance(body, ADM) else None,
        index_scale=1000 / steps if rescaled else 1.0,
    )


def _score_sde(body: nn.Module, options: Options) -> Denoiser:
    """Score-SDE's processes: variance preserving with predicted noise, or exploding with predicted score.

    A config without ``sde`` is of the second kind if it embeds or divides by sigma. Time is continuous unless the
    config denies it (or embeds an index of exploding noise levels): the time label is then 999 t, not rounded, for any
    number of scales.
    """
    fourier = options.get("embedding_type") == "fourier"
    process = options.get("sde", "vesde" if fourier or options.get("scale_by_sigma") else "vpsde")
    process = str(process).lower()
    if process == "vesde":
        return _exploding(body, options, fourier)
    if process != "vpsde":
        raise ValueError(f"a score_sde denoiser needs training.sde to be vpsde or vesde; got {process!r}. {ADVICE}.")
    if not options.get("centered", True):
        raise ValueError(f"a score_sde denoiser of a vpsde needs data.centered true; got false. {ADVICE}.")
    scales, low, high = (options.get(name, given) for name, given in VP_DEFAULTS.items())
    if options.get("continuous", True):
        return EpsDenoiser(body, VP(float(low), float(high)), "continuous", time_scale=999.0)
    return EpsDenoiser(body, DDPM(int(scales), low / scales, high / scales), "nearest")


VP_DEFAULTS = {"num_scales": 1000, "beta_min": 0.1, "beta_max": 20.0}
VE_DEFAULTS = {"num_scales": 1000, "sigma_min": 0.01, "sigma_max": 50.0}


def _exploding(body: nn.Module, options: Options, fourier: bool) -> Denoiser:
    if "centered" not in options:
        raise ValueError(
            "a config with training.sde vesde must state data.centered; it does not. "
            "The published networks read images in [0,1], which is centered: false."
        )
    continuous = bool(options.get("continuous", fourier))
    if continuous != fourier:
        raise ValueError(
            "a vesde must be continuous with embedding_type fourier, and must not be with positional; "
            f"got {'fourier' if fourier else 'positional'} with continuous: {str(continuous).lower()}. {ADVICE}."
        )
    centered = bool(options["centered"])
    scales, low, high = (float(options.get(name, given)) for name, given in VE_DEFAULTS.items())
    low, high = (low, high) if centered else (sigma_to_model(low), sigma_to_model(high))
    return ScoreDenoiser(body, low, high, None if continuous else int(scales), centered)
