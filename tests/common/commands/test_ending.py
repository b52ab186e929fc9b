"""Ends of a command: one line and the exit status."""

import pytest

from common.commands.ending import DIED, exit_status

BROKEN = "Gloo connectFullMesh failed with [third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"


@pytest.mark.parametrize("message", [BROKEN, "[gloo/transport/tcp/buffer.cc:76] Timed out", f"rank 1: {BROKEN}"])
def test_a_broken_connection_is_the_death_of_a_rank(message, capsys):
    """Also where it breaks before the ranks know of each other."""
    assert exit_status(RuntimeError(message)) == DIED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the connection to another rank broke") and line.endswith(" goes on")


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), KeyError("gloo/transport")])
def test_an_unexpected_error_is_raised(error):
    with pytest.raises(type(error)) as raised:
        exit_status(error)
    assert raised.value is error
