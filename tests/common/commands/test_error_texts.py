"""Errors of the system name the file and the command."""

import errno

import pytest

from common.commands.errors import text_of
from common.files.errors import FileError

ERRORS = {
    "fit could not read or write a file: No space left (": OSError(errno.ENOSPC, "No space left"),
    "fit could not read or write /a/b: Permission denied": PermissionError(errno.EACCES, "Permission denied", "/a/b"),
    "fit could not read or write /a or /b: Cross-device": OSError(errno.EXDEV, "Cross-device", "/a", None, "/b"),
    "there is no checkpoint x": FileNotFoundError("there is no checkpoint x"),
    "cannot save it /a: I/O error": FileError("save it", "/a", OSError(errno.EIO, "I/O error")),
    "eps": ValueError("eps"),
}


@pytest.mark.parametrize("text", ERRORS)
def test_the_text_names_file_and_command(text):
    assert text_of(ERRORS[text], "fit").startswith(text)
