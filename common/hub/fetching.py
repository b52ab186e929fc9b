"""The cache of published files: paths, sizes, download and verification by the name of a card."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from common.checkpoints.formats.bodies import build_body
from common.hub.cards import get_card
from common.hub.checksums import install_download, verify_checksum
from common.hub.downloads import download_file


def cache_directory() -> Path:
    """Folder of the downloads: ``$ROBUST_DIFFUSION_CACHE``, or ``~/.cache/robust-diffusion``."""
    chosen = os.environ.get("ROBUST_DIFFUSION_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "robust-diffusion"


def cached_path(name: str, directory: str | Path | None = None) -> Path:
    """Path of a card's file, there or not yet: in ``directory``, or in the cache."""
    return (cache_directory() if directory is None else Path(directory).expanduser()) / get_card(name).filename


def partial_path(path: Path) -> Path:
    """Path of an incomplete download: ``FILE.part``."""
    return path.with_name(path.name + ".part")


def file_size(name: str) -> tuple[int, bool]:
    """Bytes of a card's file, and True if the card states them; else 4 bytes per parameter of its network."""
    card = get_card(name)
    if card.size is not None:
        return card.size, True
    network = build_body(card.format, card.config)
    return 4 * sum(parameter.numel() for parameter in network.parameters()), False


def fetch(name: str, directory: str | Path | None = None, console: Console | None = None, force: bool = False) -> Path:
    """Path of a card's file, downloaded if it is missing, and verified. An interrupted download is continued.

    ``force`` downloads again, and pins the new file's checksum. Of processes that need the same file at once, one
    downloads it.

    Raises ``ValueError`` for a file that differs from its card or its pin (`common.hub.checksums`), and
    ``ConnectionError`` if the download fails.
    """
    card, path, console = get_card(name), cached_path(name, directory), console or Console(stderr=True)
    if force or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path, console):
            if force or not path.exists():
                about = f"[bold]{name}[/]: {card.use}\n  from {card.url}\n  licence: {card.licence}"
                console.print(about, soft_wrap=True)
                part = partial_path(path)
                download_file(card, part, console)
                install_download(part, path, card, console, replace_pin=force)
    verify_checksum(path, card, console)
    return path


@contextmanager
def _lock(path: Path, console: Console) -> Iterator[None]:
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
