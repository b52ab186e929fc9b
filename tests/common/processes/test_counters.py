"""Texts of any length in the store of rank 0."""

import time

import pytest

from common.processes import counters as module
from common.processes.counters import PIECE, Counters


@pytest.fixture
def ranks(monkeypatch):
    """Two ranks on one store."""
    monkeypatch.setattr(module, "LOST", 0.1)
    port = []
    return Counters(0, "127.0.0.1", port.append), Counters(1, "127.0.0.1", lambda nothing: port[0])


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 9 * 2**20])
def test_texts_of_any_length_reach_the_other_rank(ranks, length):
    """The store itself refuses values of more than 8 MiB, and closes the connection."""
    text = bytes(range(251)) * (length // 251 + 1)
    for sender, receiver in (ranks, ranks[::-1]):
        assert receiver.get("text") is None
        sender.put("text", text[:length])
        while (found := receiver.get("text")) is None:  # the store takes texts without an answer
            time.sleep(0.001)
        same = found == text[:length]
        assert same
        before = sender._store.num_keys()
        receiver.remove("text", "never put")
        assert receiver.get("text") is None
        assert before - sender._store.num_keys() == max(1, -(-length // PIECE))  # no piece is left
