"""Publishers' options, with or without sections, in the spelling of the networks' arguments."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

Options = dict[str, Any]

GUIDED_WIDTHS: dict[int, tuple[float, ...]] = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
"""Default ``channel_mult`` of guided diffusion by image size."""

OUTSIDE_SECTIONS = ("image_size", "sde", "continuous")
"""Options also read outside of sections; the last two also in the section ``training``, whose others are ignored."""


def flatten(config: Mapping[str, Any] | None) -> Options:
    """The publisher's options: those of ``config``, or of its sections ``data``, ``model`` and ``diffusion``.

    The section ``training`` contributes the process (``sde``) and ``continuous``. Raises ``ValueError`` unless
    ``config`` is a mapping.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f"config must be the publishers' options, by name; got a {type(config).__name__}: {config!r}.")
    config = dict(config or {})
    training = config.pop("training") if isinstance(config.get("training"), Mapping) else {}
    names = ("config",) if isinstance(config.get("config"), Mapping) else ("data", "model", "diffusion")
    sections = [config[name] for name in names if isinstance(config.get(name), Mapping)]
    outside = {name: place[name] for place in (config, training) for name in OUTSIDE_SECTIONS if name in place}
    inside = chain.from_iterable(section.items() for section in sections) if sections else config.items()
    return {**outside, **dict(inside)}


def check_given(format: str, needed: Sequence[str], arguments: Options, options: Options) -> None:
    """Raise ``ValueError`` unless all ``needed`` names are among ``arguments``."""
    missing = [name for name in needed if name not in arguments]
    if missing:
        raise ValueError(
            f"a config for format {format} must have {', '.join(missing)}; it has "
            f"{', '.join(map(repr, options)) or 'no option at all'}. Take the publishers' options over as they are."
        )


def from_script(options: Options) -> Options:
    """Arguments of ADM from the command-line options of guided and improved diffusion."""
    options = dict(options)
    check_given("guided_diffusion", ["image_size"], options, options)
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
