"""Cards of the weights that the papers use: address, licence, format, config and checksum of each file."""

from dataclasses import dataclass, field
from typing import Any, get_args

from common.checkpoints.layouts import Format
from common.checks.settings import check_count, check_mapping, check_one_of, check_optional, check_text
from common.hub.bundled import BUNDLED, LISTED
from common.naming.nearest import did_you_mean


@dataclass(frozen=True)
class Card:
    """Published file: network and role (``use``), address, licence, format, config and checksum.

    ``page`` is the web page to download it from by hand if ``url`` fails. ``sha256`` and ``size`` (bytes) are None
    where the publisher states none; the first download is then pinned, see `common.hub.checksums`. The number of
    ``parameters`` of the network replaces an unknown size.
    """

    use: str
    url: str
    page: str
    filename: str
    licence: str
    format: Format
    config: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None
    size: int | None = None
    parameters: int = 0

    def __post_init__(self) -> None:
        for name in ("use", "url", "page", "filename", "licence"):
            check_text(name, getattr(self, name))
        check_one_of("format", self.format, get_args(Format))
        check_mapping("config", self.config)
        check_optional(check_text, "sha256", self.sha256)
        check_optional(check_count, "size", self.size)
        check_count("parameters", self.parameters, 0)


def _drive(identifier: str) -> str:
    return f"https://drive.usercontent.google.com/download?id={identifier}&export=download&confirm=t"


_EDM_CIFAR = {
    "model_type": "SongUNet",
    "img_resolution": 32,
    "img_channels": 3,
    "augment_dim": 9,
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.13,
}


def _edm(use: str, filename: str, parameters: int, config: dict[str, Any]) -> Card:
    """Card of a network that EDM's authors published."""
    return Card(
        use=use,
        url=f"https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/{filename}",
        page="https://github.com/NVlabs/edm",
        filename=filename,
        licence="CC BY-NC-SA 4.0 (non-commercial)",
        format="edm",
        parameters=parameters,
        config=config,
    )


CARDS: dict[str, Card] = {
    "score_sde_cifar10": Card(
        use="DDPM++ deep, continuous VP, CIFAR-10: the denoiser of DiffPure and AGDM",
        url=_drive("16_-Ahc6ImZV5ClUc0vM5Iivf8OJ1VSif"),
        page="https://drive.google.com/file/d/16_-Ahc6ImZV5ClUc0vM5Iivf8OJ1VSif/view",
        filename="checkpoint_8.pth",
        licence="Apache-2.0 (Score-SDE's; none is stated for the file itself)",
        format="score_sde",
        parameters=106_632_579,
        size=1_707_310_559,
    ),
    "guided_diffusion_imagenet256": Card(
        use="ADM, unconditional, ImageNet 256: the denoiser of DiffPure and AGDM, the first of NDC",
        url="https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
        page="https://github.com/openai/guided-diffusion",
        filename="256x256_diffusion_uncond.pt",
        licence="MIT",
        format="guided_diffusion",
        parameters=552_814_086,
        config={
            "image_size": 256,
            "model_channels": 256,
            "out_channels": 6,
            "num_res_blocks": 2,
            "attention_resolutions": [8, 16, 32],
            "channel_mult": [1, 1, 2, 2, 4, 4],
            "num_head_channels": 64,
            "use_scale_shift_norm": True,
            "resblock_updown": True,
        },
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
        size=2_211_383_297,
    ),
    "sdedit_celebahq256": Card(
        use="Ho et al.'s U-Net, CelebA-HQ 256: the denoiser of DiffPure",
        url="https://image-editing-test-12345.s3-us-west-2.amazonaws.com/checkpoints/celeba_hq.ckpt",
        page="https://github.com/ermongroup/SDEdit",
        filename="celeba_hq.ckpt",
        licence="MIT (SDEdit's; none is stated for the file itself)",
        format="sdedit_ddpm",
        parameters=113_673_219,
        config={"image_size": 256, "ch": 128, "ch_mult": [1, 1, 2, 2, 4, 4], "attn_resolutions": [16]},
    ),
    "edm_cifar10_conditional": _edm(
        "DDPM++, class-conditional, CIFAR-10: the denoiser of NDC",
        "edm-cifar10-32x32-cond-vp.pkl",
        55_735_299,
        {**_EDM_CIFAR, "label_dim": 10},
    ),
    "edm_cifar10_unconditional": _edm(
        "DDPM++, unconditional, CIFAR-10",
        "edm-cifar10-32x32-uncond-vp.pkl",
        55_733_891,
        _EDM_CIFAR,
    ),
    "edm_imagenet64_conditional": _edm(
        "ADM, class-conditional, ImageNet 64: the denoiser of NDC",
        "edm-imagenet-64x64-cond-adm.pkl",
        295_899_267,
        {"model_type": "DhariwalUNet", "img_resolution": 64, "img_channels": 3, "label_dim": 1000},
    ),
    "robustbench_cifar10_standard": Card(
        use="WRN-28-10, CIFAR-10, standard training: the classifier of DiffPure and AGDM",
        url=_drive("1t98aEuzeTL8P7Kpd5DIrCoCL21BNZUhC"),
        page="https://github.com/RobustBench/robustbench",
        filename="Standard.pt",
        licence="MIT (RobustBench's; none is stated for the file itself)",
        format="robustbench_wrn",
        parameters=36_479_194,
        config={"depth": 28, "widen_factor": 10, "num_classes": 10},
    ),
}


def get_card(name: str) -> Card:
    """The card with this name. Raises ``ValueError``, with the known names, if there is none."""
    if check_text("name", name, LISTED) in BUNDLED:
        raise ValueError(
            f"{name} is bundled, as {BUNDLED[name].path}: it must be loaded by name, without a path or a card."
        )
    if name not in CARDS:
        advice = did_you_mean(name, (*CARDS, *BUNDLED))
        raise ValueError(f"no card is named {name!r}.{advice} The cards are {', '.join((*CARDS, *BUNDLED))}.")
    return CARDS[name]
