"""Checks of values that are looked at together: the first that fails is named, and nothing is forgotten."""

from contextlib import nullcontext

import pytest
import torch

from common.checks import deferred
from common.checks.deferred import check_values, look, looked_at_each, looked_at_once
from common.checks.images import check_near_pixels, check_purified
from tests.waits import counted_waits

IMAGE = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def device(monkeypatch):
    """Values are as on a device that the host waits for."""
    monkeypatch.setattr(deferred, "has_to_wait", lambda values: True)


def check(name, wrong):
    def judge(values):
        assert len(values) == 2
        if values[0]:
            raise ValueError(name)

    check_values(torch.tensor([wrong, 7.0], dtype=torch.float32), judge)


def test_a_check_on_its_own_fails_at_once():
    with pytest.raises(ValueError, match="first"):
        check("first", 1.0)


def checked(*stages, error=None):
    with looked_at_once():
        for name, wrong in stages:
            with looked_at_once():
                check(name, wrong)
        if error is not None:
            raise error


def test_the_first_that_failed_is_raised_at_the_end_after_one_wait(monkeypatch):
    with counted_waits(monkeypatch) as waits, pytest.raises(ValueError, match="second"):
        checked(("first", 0.0), ("second", 1.0), ("third", 1.0))
    assert waits.count == 1
    checked(("nothing is left", 0.0))


def test_values_of_a_cpu_are_judged_at_once():
    with looked_at_once(), pytest.raises(ValueError, match="first"):
        check("first", 1.0)


def test_values_that_have_arrived_are_judged_at_the_next_check(device, monkeypatch):
    """The first that failed is named, although a later one that is pending failed too."""
    checked, arrived = [], []
    monkeypatch.setattr(deferred._Check, "has_arrived", property(lambda one: bool(arrived)))

    def stages():
        for name in ("first", "second", "third", "fourth"):
            arrived.extend([True] * (name == "third"))
            checked.append(name)
            check(name, 1.0)

    with pytest.raises(ValueError, match="first"), looked_at_once():
        stages()
    assert checked == ["first", "second", "third"]


def test_each_is_judged_at_once_where_a_caller_may_handle_it(device):
    with looked_at_once():
        with looked_at_each(), pytest.raises(ValueError, match="first"):
            check("first", 1.0)
        check("second", 0.0)


def test_values_of_any_type_are_read_exactly(device):
    found = []
    with looked_at_once():
        check_values(torch.tensor([3, 2**40 + 1]), found.extend)
        check_values(torch.tensor([0.1], dtype=torch.float64), found.extend)
        check_values(torch.tensor([True]), found.extend)
        assert not found
    assert found == [3, 2**40 + 1, 0.1, 1]


def test_an_error_that_a_wrong_value_led_to_is_the_cause(device):
    with pytest.raises(ValueError, match="stage") as caught:
        checked(("stage", 1.0), error=IndexError("far behind it"))
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(IndexError, match="own"):
        checked(("stage", 0.0), error=IndexError("own"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt, SystemExit])
def test_an_end_that_is_no_mistake_passes(error, device):
    with pytest.raises(error):
        checked(("stage", 1.0), error=error())
    checked(("nothing is left", 0.0))


def test_a_look_comes_before_what_is_written_down(device):
    with looked_at_once():
        check("stage", 1.0)
        with pytest.raises(ValueError, match="stage"):
            look()
        look()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.index_fill(0, torch.tensor([2]), torch.nan), r"NaN or infinity in rows \[2\]"),
        (lambda x: x.index_fill(0, torch.tensor([1]), -torch.inf), r"NaN or infinity in rows \[1\]"),
        (lambda x: 255 * x, "Divide by 255"),
        (lambda x: 2 * x - 1, r"images of \[-1,1\]"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_purified_images_are_judged_as_before(change, message, together, device):
    context = looked_at_once() if together else nullcontext()
    with pytest.raises(ValueError, match=message), context:
        check_purified(change(IMAGE), IMAGE)


def test_the_span_is_that_of_all_rows(device):
    image = IMAGE.clone()
    image[1, 0, 0, 0], image[2, 0, 0, 0] = -30.0, 40.0
    with pytest.raises(ValueError, match="up to noise; got -30 to 40"), looked_at_once():
        check_near_pixels(image)
