"""Download of a published file into a part file, with a progress bar, resumed after an interruption."""

import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from common.hub.cards import Card

CHUNK_BYTES, TIMEOUT_SECONDS = 1 << 20, 60


def download_file(card: Card, part: Path, console: Console) -> None:
    """Append the missing bytes of a card's file to ``part``.

    Raises ``ConnectionError`` if the download fails; the bytes received are kept, and the next call continues.
    """
    try:
        _append(card, part, console)
    except urllib.error.HTTPError as error:
        received = part.stat().st_size if part.exists() else 0
        if error.code != 416 or not received:
            raise ConnectionError(_unreachable(card, part, error)) from error
        total = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
        if total.isdigit() and int(total) != received:  # part of another file
            part.unlink()
            download_file(card, part, console)
    except (OSError, HTTPException) as error:
        raise ConnectionError(_unreachable(card, part, error)) from error


def _append(card: Card, part: Path, console: Console) -> None:
    received = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(card.url, headers={"Range": f"bytes={received}-"} if received else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        continued = received > 0 and response.status == 206
        start = received if continued else 0
        length = response.headers.get("Content-Length")
        total = int(length) + start if length else None
        with part.open("ab" if continued else "wb") as file, _bar(console) as progress:
            task = progress.add_task(card.filename, total=total or card.size, completed=start)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError("the connection ended early")


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def _unreachable(card: Card, part: Path, error: Exception) -> str:
    kept = f" {part.stat().st_size} bytes are kept; the next attempt continues." if part.exists() else ""
    target = part.with_name(part.name.removesuffix(".part"))
    reason = getattr(error, "reason", error)
    return f"{card.url} could not be fetched ({reason}).{kept} Try again, or save it from {card.page} as {target}."
