"""The nearest known name."""

import pytest

from common.naming.nearest import did_you_mean, nearest

KNOWN = ["fit", "test", "report", "presets", "--trainer.accelerator", "--trainer.accumulate_grad_batches"]


@pytest.mark.parametrize(
    ("typed", "found"),
    [("tset", ["test"]), ("TEST", ["test"]), ("--trainer.acelerator", ["--trainer.accelerator"]), ("zzz", [])],
)
def test_only_names_about_as_near_as_the_nearest(typed, found):
    assert nearest(typed, KNOWN) == found


def test_the_sentence():
    assert did_you_mean("reprot", KNOWN) == " Did you mean report?"
    assert did_you_mean("ab1", ["ab2", "ab3"]) in (" Did you mean ab2 or ab3?", " Did you mean ab3 or ab2?")
    assert did_you_mean("zzz", KNOWN) == ""
