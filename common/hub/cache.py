"""The cache of published files: its folder, and path and size of the file of each card. Imports no torch."""

import os
from pathlib import Path

from common.hub.cards import get_card


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
    return (card.size, True) if card.size is not None else (4 * card.parameters, False)
