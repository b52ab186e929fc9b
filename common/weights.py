"""Cards of the weights that the papers use, and their download: on request, resumed, verified, kept.

fetch("guided_diffusion_imagenet256")                                   # -> path of the verified file
denoiser = published_denoiser("guided_diffusion_imagenet256")           # from the cache
denoiser = published_denoiser("guided_diffusion_imagenet256", download=True)
"""

import os
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from common import published
from common.checkpoints import Format, sha256
from common.diffusion.denoisers import Denoiser
from common.robustness.classifiers import Classifier

PIECE = 1 << 20


@dataclass(frozen=True)
class Card:
    """A published file: where it is, whose it is, what it holds, how to know it.

    ``use`` is what the file is. ``page`` is where a browser finds it if ``url`` fails. ``sha256`` and ``size`` (bytes)
    are None where nobody has stated them; such a download cannot be verified.
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
_EDM_LICENCE = "CC BY-NC-SA 4.0 (non-commercial)"

CARDS: dict[str, Card] = {
    "score_sde_cifar10": Card(
        use="DDPM++ deep, continuous VP, CIFAR-10: the denoiser of DiffPure and AGDM",
        url=_drive("16_-Ahc6ImZV5ClUc0vM5Iivf8OJ1VSif"),
        page="https://drive.google.com/file/d/16_-Ahc6ImZV5ClUc0vM5Iivf8OJ1VSif/view",
        filename="checkpoint_8.pth",
        licence="Apache-2.0 (Score-SDE's; none is stated for the file itself)",
        format="score_sde",
        size=1_707_310_559,
    ),
    "guided_diffusion_imagenet256": Card(
        use="ADM, unconditional, ImageNet 256: the denoiser of DiffPure and AGDM",
        url="https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
        page="https://github.com/openai/guided-diffusion",
        filename="256x256_diffusion_uncond.pt",
        licence="MIT",
        format="guided_diffusion",
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
        config={"image_size": 256, "ch": 128, "ch_mult": [1, 1, 2, 2, 4, 4], "attn_resolutions": [16]},
    ),
    "edm_cifar10_conditional": Card(
        use="DDPM++, class-conditional, CIFAR-10: the denoiser of NDC",
        url="https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-cond-vp.pkl",
        page="https://github.com/NVlabs/edm",
        filename="edm-cifar10-32x32-cond-vp.pkl",
        licence=_EDM_LICENCE,
        format="edm",
        config={**_EDM_CIFAR, "label_dim": 10},
    ),
    "edm_cifar10_unconditional": Card(
        use="DDPM++, unconditional, CIFAR-10",
        url="https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-vp.pkl",
        page="https://github.com/NVlabs/edm",
        filename="edm-cifar10-32x32-uncond-vp.pkl",
        licence=_EDM_LICENCE,
        format="edm",
        config=_EDM_CIFAR,
    ),
    "edm_imagenet64_conditional": Card(
        use="ADM, class-conditional, ImageNet 64: the denoiser of NDC",
        url="https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-imagenet-64x64-cond-adm.pkl",
        page="https://github.com/NVlabs/edm",
        filename="edm-imagenet-64x64-cond-adm.pkl",
        licence=_EDM_LICENCE,
        format="edm",
        config={"model_type": "DhariwalUNet", "img_resolution": 64, "img_channels": 3, "label_dim": 1000},
    ),
    "robustbench_cifar10_standard": Card(
        use="WRN-28-10, CIFAR-10, standard training: the classifier of DiffPure and AGDM",
        url=_drive("1t98aEuzeTL8P7Kpd5DIrCoCL21BNZUhC"),
        page="https://github.com/RobustBench/robustbench",
        filename="Standard.pt",
        licence="MIT (RobustBench's; none is stated for the file itself)",
        format="robustbench_wrn",
        config={"depth": 28, "widen_factor": 10, "num_classes": 10},
    ),
}


def cache() -> Path:
    """Where downloads are kept: ``$ROBUST_DIFFUSION_CACHE``, or ``~/.cache/robust-diffusion``."""
    chosen = os.environ.get("ROBUST_DIFFUSION_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "robust-diffusion"


def card(name: str) -> Card:
    """The card of that name; ``ValueError`` with the names there are."""
    if name not in CARDS:
        raise ValueError(f"there is no card {name!r}. There are {', '.join(CARDS)}.")
    return CARDS[name]


def fetch(name: str, directory: str | Path | None = None, console: Console | None = None) -> Path:
    """The file of a card, downloaded unless it is there already, and verified. An interrupted download is continued.

    Raises ``ValueError`` for a file that is not the one on the card, and ``ConnectionError`` if it cannot be fetched.
    """
    wanted, console = card(name), console or Console(stderr=True)
    path = _place(wanted, directory)
    if _is_verified(path, wanted):
        return path
    if not path.exists():
        console.print(f"[bold]{name}[/]: {wanted.use}\n  from {wanted.url}\n  licence: {wanted.licence}")
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(wanted, path.with_name(path.name + ".part"), console)
        os.replace(path.with_name(path.name + ".part"), path)
    _verify(path, wanted, console)
    return path


def published_denoiser(name: str, download: bool = False, directory: str | Path | None = None) -> Denoiser:
    """The denoiser on a card; ``download=True`` fetches what is not in the cache. Errors as for `fetch`."""
    path = _available(name, download, directory)
    return published.load_denoiser(path, card(name).format, card(name).config)


def published_classifier(name: str, download: bool = False, directory: str | Path | None = None) -> Classifier:
    """The classifier on a card; ``download=True`` fetches what is not in the cache. Errors as for `fetch`."""
    path = _available(name, download, directory)
    return published.load_classifier(path, card(name).format, card(name).config)


def _available(name: str, download: bool, directory: str | Path | None) -> Path:
    path = _place(card(name), directory)
    if not download and not path.exists():
        raise FileNotFoundError(
            f"{name} is not at {path}. Pass download=True to fetch it, or save it there from {card(name).page}."
        )
    return fetch(name, directory)


def _place(wanted: Card, directory: str | Path | None) -> Path:
    return (cache() if directory is None else Path(directory).expanduser()) / wanted.filename


# Verification ---------------------------------------------------------------------------------------------------------


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _is_verified(path: Path, wanted: Card) -> bool:
    """Whether the file was hashed before and not touched since; hashing gigabytes at each start would cost seconds."""
    mark = _mark(path)
    if not path.exists() or not mark.exists() or mark.stat().st_mtime_ns < path.stat().st_mtime_ns:
        return False
    return wanted.sha256 is None or mark.read_text().strip() == wanted.sha256


def _verify(path: Path, wanted: Card, console: Console) -> None:
    """Hash a file and note the hash beside it; a file that is not the one on the card is set aside and refused."""
    size, found = path.stat().st_size, sha256(path)
    wrong = []
    if wanted.size is not None and size != wanted.size:
        wrong.append(f"it must have {wanted.size} bytes and has {size}")
    if wanted.sha256 is not None and found != wanted.sha256:
        wrong.append(f"its sha256 must be {wanted.sha256} and is {found}")
    with path.open("rb") as file:
        if file.read(64).lstrip()[:1] == b"<":
            wrong.append("it is a web page")
    if wrong:
        aside = path.with_name(path.name + ".refused")
        os.replace(path, aside)
        raise ValueError(
            f"{path.name} is not the published file: {'; '.join(wrong)}. It was moved to {aside.name}. "
            f"Fetch it again, or save it from {wanted.page} as {path}."
        )
    _mark(path).write_text(found + "\n")
    if wanted.sha256 is None:
        console.print(f"  [yellow]unverified[/]: nobody has stated the sha256 of {path.name}; this file's is {found}")


# Download -------------------------------------------------------------------------------------------------------------


def _download(wanted: Card, part: Path, console: Console) -> None:
    """Append to ``part`` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(wanted.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            continued = have > 0 and answer.status == 206
            start = have if continued else 0
            stated = answer.headers.get("Content-Length")
            total = wanted.size or (int(stated) + start if stated else None)
            with part.open("ab" if continued else "wb") as file, _bar(console) as progress:
                task = progress.add_task(wanted.filename, total=total, completed=start)
                while piece := answer.read(PIECE):
                    file.write(piece)
                    progress.advance(task, len(piece))
            if stated and part.stat().st_size < int(stated) + start:
                raise ConnectionError("the connection ended early")
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to ask for: the part is whole, or not a part of this file
            return
        raise ConnectionError(_unreachable(wanted, part, error)) from error
    except OSError as error:
        raise ConnectionError(_unreachable(wanted, part, error)) from error


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def _unreachable(wanted: Card, part: Path, error: Exception) -> str:
    kept = f" {part.stat().st_size} bytes are kept and will be continued." if part.exists() else ""
    place = part.with_name(part.name.removesuffix(".part"))
    return f"{wanted.url} could not be fetched ({error}).{kept} Try again, or save it from {wanted.page} as {place}."
