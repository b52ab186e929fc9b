"""Download of a published file into a part file: with a progress bar, and continued where it was interrupted."""

import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from common.hub.cards import Card

PIECE, TIMEOUT = 1 << 20, 60


def download(wanted: Card, part: Path, console: Console) -> None:
    """Append to ``part`` what it lacks of the file on a card.

    Raises ``ConnectionError`` if that cannot be had; what came is kept, and continued by the next call.
    """
    try:
        _append(wanted, part, console)
    except urllib.error.HTTPError as error:
        have = part.stat().st_size if part.exists() else 0
        if error.code != 416 or not have:
            raise ConnectionError(_unreachable(wanted, part, error)) from error
        whole = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
        if whole.isdigit() and int(whole) != have:  # a part of another file
            part.unlink()
            download(wanted, part, console)
    except (OSError, HTTPException) as error:
        raise ConnectionError(_unreachable(wanted, part, error)) from error


def _append(wanted: Card, part: Path, console: Console) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(wanted.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        continued = have > 0 and answer.status == 206
        start = have if continued else 0
        stated = answer.headers.get("Content-Length")
        total = int(stated) + start if stated else None
        with part.open("ab" if continued else "wb") as file, _bar(console) as progress:
            task = progress.add_task(wanted.filename, total=total or wanted.size, completed=start)
            while piece := answer.read(PIECE):
                file.write(piece)
                progress.advance(task, len(piece))
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


def _unreachable(wanted: Card, part: Path, error: Exception) -> str:
    kept = f" {part.stat().st_size} bytes are kept and will be continued." if part.exists() else ""
    place = part.with_name(part.name.removesuffix(".part"))
    reason = getattr(error, "reason", error)
    return f"{wanted.url} could not be fetched ({reason}).{kept} Try again, or save it from {wanted.page} as {place}."
