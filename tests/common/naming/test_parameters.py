"""Errors of Python calls with wrong arguments: the nearest argument, or what is missing."""

import inspect
import pickle

import jsonargparse
import pytest
import robust_diffusion as rd

from common.naming.parameters import name_arguments, name_arguments_of, parameters
from common.naming.short_names import SHORT_NAMES
from common.robustness import PGD

CALLS = {
    "class": (lambda: rd.PGD(step=2), r"PGD has no argument 'step'\. Did you mean steps\? help\(PGD\) lists them"),
    "function": (lambda: rd.evaluate(1, treat="x"), r"evaluate has no argument 'treat'\. Did you mean threat\?"),
    "constructor of a base": (lambda: rd.VDenoiser(network=1, nets=1), r"VDenoiser has no argument 'nets'\. help"),
    "handed on to a base": (lambda: rd.Digits(test_image=4), r"Digits has no argument .* Did you mean test_images\?"),
    "unknown and missing": (lambda: rd.DiffPure(tstar=0.1), r"Did you mean t_star\?"),
    "missing": (lambda: rd.DiffPure(steps=2), r"DiffPure needs denoiser and t_star\. help\(DiffPure\)"),
    "missing of a function": (lambda: rd.load_classifier(), r"load_classifier needs path\."),
    "too many": (lambda: rd.ThreatModel("inf", 0.1, 3), r"takes 2 arguments by position \(norm, eps\); got 3\. Write"),
    "not as a list": (lambda: rd.compare(1, 2), r"takes 1 argument by position \(results\).* several .* as a list"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_names_the_remedy(name):
    call, message = CALLS[name]
    with pytest.raises(TypeError, match=message) as raised:
        call()
    assert raised.value.__suppress_context__ and "\n" not in str(raised.value)


def test_every_public_class_with_arguments_of_its_own_names_an_unknown_one():
    classes = [part for part in (getattr(rd, name) for name in SHORT_NAMES) if inspect.isclass(part)]
    named = 0
    for kind in classes:
        known = parameters(kind)
        if inspect.isabstract(kind) or not known or "kwargs" in inspect.signature(kind).parameters:
            continue
        with pytest.raises(TypeError) as raised:
            kind(unheard_of=1)
        assert str(raised.value).startswith(f"{kind.__name__} has no argument 'unheard_of'.")
        named += 1
    assert named > 100


class Derived(rd.PGD):
    """A class of the user's with an argument of its own."""

    def __init__(self, mine, **others):
        super().__init__(**others)


def test_a_derived_class_is_named_with_the_arguments_that_reach_the_base():
    assert Derived(1, steps=3).steps == 3
    with pytest.raises(TypeError, match=r"Derived has no argument 'step'\. Did you mean steps\?"):
        Derived(1, step=3)


def test_errors_inside_a_right_call_stay():
    @name_arguments
    def add(left, right=1):
        return left + right

    assert add(1) == 2 and add.__name__ == "add"
    with pytest.raises(TypeError, match="concatenate str"):
        add("a")
    with pytest.raises(TypeError, match="needs left"):
        add()


def test_a_class_keeps_its_signature_its_pickle_and_its_yaml():
    before = vars(rd.PGD)["__init__"]
    name_arguments_of(PGD)
    assert vars(PGD)["__init__"] is before
    assert [*inspect.signature(rd.PGD).parameters][:2] == ["steps", "step_size"]
    assert pickle.loads(pickle.dumps(rd.PGD(steps=3))) == rd.PGD(steps=3)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(rd.Digits, "data")
    assert parser.parse_args(["--data.test_images=5"]).data.test_images == 5
