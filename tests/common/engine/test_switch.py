"""Switch: on inside, in every thread, until the last one has left."""

from contextlib import ExitStack

from common.engine.switch import Switch


def test_a_switch_is_on_until_the_last_has_left_in_any_order():
    switch, first, second = Switch(), ExitStack(), ExitStack()
    assert not switch.is_on
    first.enter_context(switch.turned_on())
    second.enter_context(switch.turned_on())
    first.close()
    assert switch.is_on
    second.close()
    assert not switch.is_on
