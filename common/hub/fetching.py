"""Download and verification of published files, by the name of a card."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from common.checks.settings import check_text
from common.files.errors import naming
from common.files.trial import try_file
from common.hub.bundled import BUNDLED, LISTED
from common.hub.cache import cached_path, partial_path
from common.hub.cards import get_card
from common.hub.checksums import install_download, verify_checksum
from common.hub.downloads import download_file
from common.naming.parameters import name_arguments
from common.naming.terminal import Terminal


@name_arguments
def fetch(name: str, directory: str | Path | None = None, console: Console | None = None, force: bool = False) -> Path:
    """Path of a card's file, downloaded if it is missing, and verified. An interrupted download is continued.

    ``force`` downloads again, and pins the new file's checksum. Of processes that need the same file at once, one
    downloads it. A bundled file is there already.

    Raises ``ValueError`` for a file that differs from its card or its pin (`common.hub.checksums`), and
    ``ConnectionError`` if the download fails.
    """
    if check_text("name", name, LISTED) in BUNDLED:
        return BUNDLED[name].path
    card, path, console = get_card(name), cached_path(name, directory), console or Terminal(stderr=True)
    if force or not path.exists():
        part = partial_path(path)
        received = part.stat().st_size if part.is_file() else 0
        try_file(path, "save the download", max(0, (card.size or 0) - received))
        with naming("make the folder", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path, console):
            if force or not path.exists():
                about = f"[bold]{name}[/]: {card.use}\n  from {card.url}\n  licence: {card.licence}"
                console.print(about, soft_wrap=True)
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
