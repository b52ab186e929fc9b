"""Published weights by the name of their card: kept in one place, fetched on request, verified, loaded.

fetch("guided_diffusion_imagenet256")                                   # -> path of the verified file
denoiser = published_denoiser("guided_diffusion_imagenet256")           # from the cache
denoiser = published_denoiser("guided_diffusion_imagenet256", download=True)
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from torch import nn

from common.checkpoints import loading
from common.checkpoints.formats.files import read, select
from common.checkpoints.formats.options import build
from common.checkpoints.state import existing, fill
from common.diffusion.denoisers import Denoiser
from common.hub.cards import CARDS, Card, card
from common.hub.checksums import admit, verify
from common.hub.downloads import download as download_part
from common.robustness.classifiers import Classifier

__all__ = [
    "CARDS",
    "Card",
    "cache",
    "card",
    "fetch",
    "file_size",
    "load_weights",
    "place",
    "published_classifier",
    "published_denoiser",
    "unfinished",
]

NESTS = ("state_dict", "model_state_dict", "model", "net")
"""Where trainers keep a network's tensors in a file of more."""


def cache() -> Path:
    """Where downloads are kept: ``$ROBUST_DIFFUSION_CACHE``, or ``~/.cache/robust-diffusion``."""
    chosen = os.environ.get("ROBUST_DIFFUSION_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "robust-diffusion"


def place(name: str, directory: str | Path | None = None) -> Path:
    """Where the file of a card lies or will lie: in ``directory``, or in the cache."""
    return (cache() if directory is None else Path(directory).expanduser()) / card(name).filename


def fetch(name: str, directory: str | Path | None = None, console: Console | None = None, force: bool = False) -> Path:
    """The file of a card, downloaded unless it is there already, and verified. An interrupted download is continued.

    ``force`` downloads again what is there, and trusts what comes as if it were the first. Processes that ask for the
    same file at once download it once.

    Raises ``ValueError`` for a file that is not the one on the card, or no longer the one it was (see
    `common.hub.checksums`), and ``ConnectionError`` if it cannot be fetched.
    """
    wanted, path, console = card(name), place(name, directory), console or Console(stderr=True)
    if force or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _turn(path, console):
            if force or not path.exists():
                about = f"[bold]{name}[/]: {wanted.use}\n  from {wanted.url}\n  licence: {wanted.licence}"
                console.print(about, soft_wrap=True)
                part = unfinished(path)
                download_part(wanted, part, console)
                admit(part, path, wanted, console, anew=force)
    verify(path, wanted, console)
    return path


def file_size(name: str) -> tuple[int, bool]:
    """Bytes of the file on a card, and whether they are stated there; else 4 for each parameter of its network."""
    wanted = card(name)
    if wanted.size is not None:
        return wanted.size, True
    network = build(wanted.format, wanted.config)
    return 4 * sum(parameter.numel() for parameter in network.parameters()), False


def unfinished(path: Path) -> Path:
    """Where a download is kept until it is complete."""
    return path.with_name(path.name + ".part")


@contextmanager
def _turn(path: Path, console: Console) -> Iterator[None]:
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"waiting for another process that fetches {path.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def published_denoiser(name: str, download: bool = False, path: str | Path | None = None) -> Denoiser:
    """The denoiser on a card; ``download=True`` fetches what is not in the cache.

    ``path`` names another file that is to be read by the card's format and config, and is not verified. Where a
    configuration wants a denoiser: ``class_path: common.hub.published_denoiser, init_args: {name: CARD}``.

    Raises ``FileNotFoundError`` for a file that is not there, ``ValueError`` for one that does not fit, and what
    `fetch` raises.
    """
    return loading.load_denoiser(_available(name, download, path), card(name).format, card(name).config)


def published_classifier(name: str, download: bool = False, path: str | Path | None = None) -> Classifier:
    """The classifier on a card; arguments and errors as for `published_denoiser`."""
    return loading.load_classifier(_available(name, download, path), card(name).format, card(name).config)


def _available(name: str, download: bool, path: str | Path | None) -> Path:
    wanted, kept = card(name), place(name)
    if path is not None:
        return existing(path)
    if not download and not kept.exists():
        raise FileNotFoundError(
            f"{name} is not at {kept}. Fetch it with: robust-diffusion fetch {name} (in Python download=True), "
            f"or save it there from {wanted.page}."
        )
    return fetch(name)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """``network`` with the weights in somebody's file, in evaluation mode: tensors by name, exactly its own.

    They may be all that the file holds or lie under "state_dict", "model_state_dict", "model" or "net"; ``module.``
    and ``model.`` before all names are taken off. Nothing in the file is run. In a configuration::

        class_path: common.hub.load_weights
        init_args: {network: {class_path: common.networks.CIFARResNet}, path: resnet50.pth}

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    path = existing(path)
    content = read(path, "torch")
    if isinstance(content, Mapping):
        content = next((content[key] for key in NESTS if isinstance(content.get(key), Mapping)), content)
    return fill(network, select(content, "torch", network, str(path)), str(path))
