"""Standard streams of a command."""

import os
import sys


def open_streams() -> None:
    """Open the standard streams that the parent has closed, to nowhere: ``robust-diffusion test >&-``.

    The system gives a file the lowest free number. Under that of a closed stream, records would take all that a library
    prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the process ends)
