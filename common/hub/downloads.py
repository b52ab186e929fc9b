"""Download of a published file into a part file, with a progress bar, resumed after an interruption.

A part is continued only if the server still has the same version: its ETag or date is kept beside the part
(``FILE.part.version``) and sent as If-Range, so that a changed file starts again. A part of unknown version is
continued only where the card states the checksum of the whole. Links in place of a part are removed, not followed.
"""

import os
import urllib.error
import urllib.request
from email.message import Message
from http.client import HTTPException
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from common.files.errors import FileError, naming
from common.files.replacing import write
from common.hub.cards import Card

CHUNK_BYTES, TIMEOUT_SECONDS = 1 << 20, 60
MOST_BYTES_PER_PARAMETER = 40  # of a file whose size the card does not state: weights, averages and optimiser state


def version_path(part: Path) -> Path:
    """Path of the server's name of the version that a part belongs to."""
    return part.with_name(part.name + ".version")


def download_file(card: Card, part: Path, console: Console) -> None:
    """Append the missing bytes of a card's file to ``part``.

    Raises ``ConnectionError`` if the download fails; the bytes received are kept, and the next call continues.
    """
    _remove_links(part)
    try:
        _append(card, part, console)
    except urllib.error.HTTPError as error:
        received = part.stat().st_size if part.exists() else 0
        if error.code != 416 or not received:
            raise ConnectionError(_unreachable(card, part, error)) from error
        total = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
        if not total.isdigit() or int(total) != received:  # part of another file
            part.unlink()
            download_file(card, part, console)
    except FileError:
        raise
    except (OSError, HTTPException) as error:
        raise ConnectionError(_unreachable(card, part, error)) from error
    version_path(part).unlink(missing_ok=True)


def _remove_links(part: Path) -> None:
    """Remove a symbolic or hard link at the place of a part or its version: what it leads to is not ours to write."""
    for path in (part, version_path(part)):
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            path.unlink()


def _append(card: Card, part: Path, console: Console) -> None:
    version = version_path(part).read_text(encoding="utf-8") if version_path(part).is_file() else ""
    known = part.exists() and (version or card.sha256 is not None)
    received = part.stat().st_size if known else 0
    headers = {"Range": f"bytes={received}-", **({"If-Range": version} if version else {})} if received else {}
    request = urllib.request.Request(card.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        continued = received > 0 and response.status == 206
        start = received if continued else 0
        if continued and not str(response.headers.get("Content-Range", f"bytes {start}-")).startswith(
            f"bytes {start}-"
        ):
            raise ConnectionError("the server sent another range of the file")
        total = _total(response.headers, start, card)
        if not continued:
            write(version_path(part), _version(response.headers))
        with open(part, "ab" if continued else "wb", opener=_without_links) as file, _bar(console) as progress:
            task = progress.add_task(card.filename, total=total or card.size, completed=start)
            while chunk := response.read(CHUNK_BYTES):
                if total is not None and file.tell() + len(chunk) > total:
                    raise ConnectionError(f"the server sent more than {total} bytes")
                with naming("save the download", part):
                    file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and "Content-Length" in response.headers and part.stat().st_size < total:
        raise ConnectionError("the connection ended early")


def _total(headers: Message, start: int, card: Card) -> int | None:
    """Bytes of the whole file; None for a chunked answer, whose end is marked.

    Raises ``ConnectionError`` for an unknown length, and one beyond the card's.
    """
    length = headers.get("Content-Length")
    chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    if not chunked and not (length or "").isdigit():
        raise ConnectionError("the server does not state the length of the file")
    total = None if length is None else int(length) + start
    most = card.size or MOST_BYTES_PER_PARAMETER * card.parameters
    if total is not None and most and total > most:
        raise ConnectionError(f"the file must have at most {most} bytes; the server offers {total}")
    return (most or None) if chunked else total


def _version(headers: Message) -> str:
    """The server's name of this version of the file: a strong ETag, or else its date; empty if it gives none."""
    tag = str(headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def _unreachable(card: Card, part: Path, error: Exception) -> str:
    continues = part.exists() and (card.sha256 or (version_path(part).is_file() and version_path(part).stat().st_size))
    kept = f" {part.stat().st_size} bytes are kept; the next attempt continues." if continues else ""
    target = part.with_name(part.name.removesuffix(".part"))
    reason = getattr(error, "reason", error)
    return f"{card.url} could not be fetched ({reason}).{kept} Try again, or save it from {card.page} as {target}."
