"""Switch: on inside, in every thread, until the last one has left."""

from contextlib import ExitStack

import torch

from common.engine.switch import REPEATABLE, Switch


def test_a_switch_is_on_until_the_last_has_left_in_any_order():
    switch, first, second = Switch(), ExitStack(), ExitStack()
    assert not switch.is_on
    first.enter_context(switch.turned_on())
    second.enter_context(switch.turned_on())
    first.close()
    assert switch.is_on
    second.close()
    assert not switch.is_on


def test_cudnn_is_deterministic_where_backward_passes_have_to_be_repeatable(monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    with REPEATABLE.turned_on():
        with REPEATABLE.turned_on():
            pass
        assert cudnn.deterministic and not cudnn.benchmark
    assert not cudnn.deterministic and cudnn.benchmark
