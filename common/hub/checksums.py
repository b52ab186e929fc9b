"""Checksums of published files: the sha256 on the card, or else the one pinned on first use.

A checksum that no publisher states is pinned on first download, and every later use is compared with it. The pin
lies beside the file as ``FILE.json``. While size and times of the file equal those in the pin, the file is not hashed
again, which takes seconds for gigabytes.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from common.checkpoints.files import file_sha256
from common.files.replacing import write
from common.hub.cards import Card


@dataclass(frozen=True)
class Pin:
    """Checksum of a file on its first use, the day ``first``, with size (bytes) and times (ns) of the last hashing."""

    sha256: str
    size: int
    first: str
    modified: int
    changed: int

    def is_current(self, file: Path) -> bool:
        """True if ``file`` was not written to since it was hashed."""
        stat = file.stat()
        return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) == (self.size, self.modified, self.changed)


def pin_path(path: Path) -> Path:
    """Path of the pin of a file: ``FILE.json``."""
    return path.with_name(path.name + ".json")


def verify_checksum(path: Path, card: Card, console: Console) -> None:
    """Verify the file at ``path`` against its card and its pin; pin it on first use.

    Raises ``ValueError``: a file that differs from its card is moved to ``FILE.refused``; one that differs from its pin
    alone stays in place.
    """
    pin = _read_pin(path)
    if pin is not None and card.sha256 in (None, pin.sha256) and pin.is_current(path):
        return
    checksum = _verified_sha256(path, path, card)
    if card.sha256 is None and pin is not None and checksum != pin.sha256:
        raise ValueError(
            f"{path} changed since it was first fetched on {pin.first}: its sha256 was {pin.sha256} and is "
            f"{checksum}. Its publisher states none: it was pinned on first download. Fetch it again (robust-diffusion "
            f"fetch NAME --force), or delete {pin_path(path).name} to pin the present file."
        )
    _write_pin(path, checksum, pin, card, console)


def install_download(part: Path, path: Path, card: Card, console: Console, replace_pin: bool = False) -> None:
    """Verify a complete download, as `verify_checksum` does, and move it to ``path``.

    ``replace_pin`` ignores the pin of an earlier file. Raises ``ValueError`` for another file, which is moved to
    ``FILE.refused``; a file already at ``path`` stays.
    """
    pin = None if replace_pin else _read_pin(path)
    checksum = _verified_sha256(part, path, card)
    if card.sha256 is None and pin is not None and checksum != pin.sha256:
        changed = f"the file first fetched on {pin.first} had sha256 {pin.sha256}, this one has {checksum}"
        raise _refuse(part, path, card, [changed])
    os.replace(part, path)
    _write_pin(path, checksum, pin, card, console)


def _verified_sha256(file: Path, path: Path, card: Card) -> str:
    """The sha256 of a file that agrees with its card."""
    size, errors = file.stat().st_size, []
    with file.open("rb") as content:
        if content.read(64).lstrip()[:1] == b"<":
            errors.append("it is a web page")
    if card.size is not None and size != card.size:
        errors.append(f"it must have {card.size} bytes and has {size}")
    checksum = "" if errors else file_sha256(file)
    if checksum and card.sha256 is not None and checksum != card.sha256:
        errors.append(f"its sha256 must be {card.sha256} and is {checksum}")
    if errors:
        raise _refuse(file, path, card, errors)
    return checksum


def _refuse(file: Path, path: Path, card: Card, errors: list[str]) -> ValueError:
    refused = path.with_name(path.name + ".refused")
    os.replace(file, refused)
    return ValueError(
        f"{path.name} is not the published file: {'; '.join(errors)}. It was moved to {refused}. "
        f"Fetch it again, or save it from {card.page} as {path}."
    )


def _read_pin(path: Path) -> Pin | None:
    pin = pin_path(path)
    if not pin.exists():
        return None
    try:
        return Pin(**json.loads(pin.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{pin} is damaged ({error}). Delete it to pin the present {path.name}.") from error


def _write_pin(path: Path, checksum: str, old: Pin | None, card: Card, console: Console) -> None:
    """Write the pin, and report the first use of a file without a published checksum."""
    stat, today = path.stat(), datetime.now(timezone.utc).date().isoformat()
    first = old.first if old is not None and old.sha256 == checksum else today
    content = asdict(Pin(checksum, stat.st_size, first, stat.st_mtime_ns, stat.st_ctime_ns))
    try:
        write(pin_path(path), json.dumps(content, indent=1) + "\n", "save the checksum")
    except OSError as error:  # e.g. a cache of another user
        message = f"  {error}; {path.name} will be hashed on every use"
        console.print(message, markup=False, soft_wrap=True)
    if card.sha256 is None and old is None:
        console.print(
            f"  [yellow]unverified[/]: the publisher of {path.name} states no sha256. That of this file is "
            f"{checksum}; it is pinned from now on, and any other file is refused.",
            soft_wrap=True,
        )
