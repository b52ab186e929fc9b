"""Another place for what would be lost if it could not be written."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common.files.errors import FileError


def write_or_fallback(path: Path, save: Callable[[Path], object]) -> None:
    """``save(path)``; if that fails, save beside it, in the working or in the temporary folder.

    The fallback is called ``NAME-fallback-PROCESS``. Raises `FileError` also then: it names the fallback.
    """
    try:
        save(path)
    except OSError as error:
        for folder in (path.parent, Path.cwd(), Path(tempfile.gettempdir())):
            other = folder / f"{path.stem[:180]}-fallback-{os.getpid()}{path.suffix}"
            with suppress(OSError, ValueError):
                save(other)
                break
        else:
            raise
        reason = error if isinstance(error, FileError) else FileError("write", path, error)
        raise FileError(reason.action, path, error, f". It was saved as {other} instead: move it to {path}.") from error
