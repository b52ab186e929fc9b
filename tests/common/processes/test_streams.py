"""Standard streams that the parent has closed: no file takes their number."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.processes.streams import open_streams


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_file_is_not_opened_under_the_number_of_a_closed_stream(tmp_path: Path, closed: Sequence[int]) -> None:
    """The output of a library does not reach the records."""
    if not (process := os.fork()):
        status = 9
        try:
            for number in closed:
                os.close(number)
            sys.stdout = sys.stderr = None  # as Python starts then
            open_streams()
            with (tmp_path / "records").open("w") as file:
                file.write("row\n")
                for number in (1, 2):
                    os.write(number, b"printed by a library\n" if number in closed else b"")
                print("by Python", file=sys.stderr)
                status = 0 if file.fileno() > 2 else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert (tmp_path / "records").read_text() == "row\n"
