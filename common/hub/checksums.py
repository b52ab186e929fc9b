"""Whether a published file is the one it should be: by the sha256 on its card or else by that of its first use.

Where nobody has stated a hash, what was fetched first is trusted, and every later use is compared with it. What was
found is noted beside the file as ``FILE.json``; as long as size and times of the file are those in the note, it is not
hashed again, which would take seconds for gigabytes.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from common.checkpoints.loading import sha256
from common.hub.cards import Card


@dataclass(frozen=True)
class Mark:
    """What a file was on its first use, the day ``first``; and its times of change, in ns, when it was last hashed."""

    sha256: str
    size: int
    first: str
    modified: int
    changed: int

    def is_untouched(self, file: Path) -> bool:
        """Whether nobody has written to ``file`` since it was hashed."""
        stat = file.stat()
        return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) == (self.size, self.modified, self.changed)


def mark_of(path: Path) -> Path:
    """Where the `Mark` of a file is kept."""
    return path.with_name(path.name + ".json")


def verify(path: Path, wanted: Card, console: Console) -> None:
    """Check the file that lies at ``path``, and note on its first use what it is.

    Raises ``ValueError``: a file that is not the one on the card is moved to ``FILE.refused``; one that is no longer
    what it was is left as it is.
    """
    known = _read(path)
    if known is not None and wanted.sha256 in (None, known.sha256) and known.is_untouched(path):
        return
    found = _right(path, path, wanted)
    if wanted.sha256 is None and known is not None and found != known.sha256:
        raise ValueError(
            f"{path} changed since it was first fetched on {known.first}: its sha256 was {known.sha256} and is "
            f"{found}. Nobody has stated the right one, so the first is trusted. Fetch it again (robust-diffusion "
            f"fetch NAME --force), or delete {mark_of(path).name} to trust the file as it is."
        )
    _note(path, found, known, wanted, console)


def admit(part: Path, path: Path, wanted: Card, console: Console, anew: bool = False) -> None:
    """Put a complete download into its place, after the checks of `verify`. ``anew`` forgets what was there before.

    Raises ``ValueError`` for another file, which is moved to ``FILE.refused``; what lay at ``path`` stays.
    """
    known = None if anew else _read(path)
    found = _right(part, path, wanted)
    if wanted.sha256 is None and known is not None and found != known.sha256:
        changed = f"the one first fetched on {known.first} had sha256 {known.sha256}, this one has {found}"
        raise _refuse(part, path, wanted, [changed])
    os.replace(part, path)
    _note(path, found, known, wanted, console)


def _right(file: Path, path: Path, wanted: Card) -> str:
    """The sha256 of a file that agrees with its card."""
    size, wrong = file.stat().st_size, []
    with file.open("rb") as content:
        if content.read(64).lstrip()[:1] == b"<":
            wrong.append("it is a web page")
    if wanted.size is not None and size != wanted.size:
        wrong.append(f"it must have {wanted.size} bytes and has {size}")
    found = "" if wrong else sha256(file)
    if found and wanted.sha256 is not None and found != wanted.sha256:
        wrong.append(f"its sha256 must be {wanted.sha256} and is {found}")
    if wrong:
        raise _refuse(file, path, wanted, wrong)
    return found


def _refuse(file: Path, path: Path, wanted: Card, wrong: list[str]) -> ValueError:
    aside = path.with_name(path.name + ".refused")
    os.replace(file, aside)
    return ValueError(
        f"{path.name} is not the published file: {'; '.join(wrong)}. It was moved to {aside}. "
        f"Fetch it again, or save it from {wanted.page} as {path}."
    )


def _read(path: Path) -> Mark | None:
    mark = mark_of(path)
    if not mark.exists():
        return None
    try:
        return Mark(**json.loads(mark.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{mark} is damaged ({error}). Delete it to trust {path.name} as it is.") from error


def _note(path: Path, found: str, known: Mark | None, wanted: Card, console: Console) -> None:
    """Write the mark; without a stated hash, say on first use that it is this file that will be trusted."""
    stat, today = path.stat(), datetime.now(timezone.utc).date().isoformat()
    first = known.first if known is not None and known.sha256 == found else today
    mark, unfinished = mark_of(path), path.with_name(f".{path.name}.{os.getpid()}.json")
    content = asdict(Mark(found, stat.st_size, first, stat.st_mtime_ns, stat.st_ctime_ns))
    try:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, mark)
    except OSError as error:  # a cache that others own
        what = f"  what {path.name} is could not be noted ({error}): it will be hashed on every use"
        console.print(what, markup=False, soft_wrap=True)
    if wanted.sha256 is None and known is None:
        console.print(
            f"  [yellow]unverified[/]: nobody has stated the sha256 of {path.name}. This file's is {found}; "
            "it is trusted from now on, and any change will be refused.",
            soft_wrap=True,
        )
