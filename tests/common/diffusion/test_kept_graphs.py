"""Kept graphs: the same gradient to the bit, as few evaluations as the budget allows, no more memory than it."""

import copy
import pickle

import torch

from common.diffusion.differentiation import Checkpoint, Full
from common.engine.memory import gradient_memory
from common.noise import Noise
from tests.defences import SIDE, agdm, diffpure

ROWS, STEPS = 4, 5


def gradient(purifier, mode):
    """The gradient, and how often the denoiser ran."""
    calls = []
    handle = purifier.denoiser.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    leaf = torch.rand(ROWS, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with purifier.differentiated(mode):
        result = purifier(leaf, Noise.of(0, torch.arange(ROWS)))
    (found,) = torch.autograd.grad(result.square().sum(), leaf)
    handle.remove()
    return found, len(calls)


def test_gradient_and_evaluations_under_every_budget():
    purifier = diffpure(steps=STEPS).purifier
    exact, evaluations = gradient(purifier, Full())
    assert evaluations == STEPS
    probe = Checkpoint(memory=1)
    found, evaluations = gradient(purifier, probe)  # one byte: nothing fits, the first step is measured on the way
    assert torch.equal(found, exact)
    assert evaluations == 2 * STEPS + 1
    (size,) = probe._graphs.values()
    for kept in range(STEPS + 2):
        mode = Checkpoint(memory=kept * size + 1)
        for first in (True, False):
            found, evaluations = gradient(purifier, mode)
            assert torch.equal(found, exact)
            expected = 2 * STEPS - min(kept, STEPS)
            assert evaluations == (max(expected, STEPS + 1) + 1 if first else expected)  # one more to measure


def test_the_gradient_does_not_depend_on_the_memory_where_a_graph_changes_the_last_bit():
    """AGDM's group norms and SiLUs: a gradient taken with a graph differs in the last bit from one without."""
    purifier = agdm().purifier
    recomputed, _ = gradient(purifier, Checkpoint())
    full, _ = gradient(purifier, Full())
    assert not torch.equal(recomputed, full)
    torch.testing.assert_close(recomputed, full, rtol=1e-4, atol=1e-6)
    generous = Checkpoint(memory=2**40)
    gradient(diffpure(steps=STEPS).purifier, generous)  # what it learns there is of another denoiser
    for _ in range(2):
        found, evaluations = gradient(purifier, generous)
        assert torch.equal(found, recomputed)
        assert evaluations == 2 * purifier.grid.steps


def test_a_graph_is_as_large_as_the_tensors_that_autograd_saves():
    """DiffPure's body saves inputs and outputs of its layers: counted by hand at the first convolution's input."""
    purifier, mode = diffpure(steps=1).purifier, Checkpoint(memory=1)
    gradient(purifier, mode)
    (size,) = mode._graphs.values()
    hidden, plain = 4 * ROWS * 4 * SIDE**2, 4 * ROWS * SIDE**2
    assert hidden <= size <= 3 * hidden + 12 * plain


def test_the_context_sets_the_budget_and_a_mode_of_its_own_overrides_it():
    purifier = diffpure(steps=STEPS).purifier
    with gradient_memory(2**30):
        for mode, second in ((Checkpoint(), STEPS), (Checkpoint(memory=0), 2 * STEPS), (Checkpoint(True), 2 * STEPS)):
            gradient(purifier, mode)
            assert gradient(purifier, mode)[1] == second
    assert gradient(purifier, Checkpoint())[1] == 2 * STEPS


def test_a_mode_that_has_measured_is_copied_and_pickled():
    purifier = diffpure(steps=2).purifier
    purifier.gradient = Checkpoint(memory=2**30)
    exact, _ = gradient(purifier, purifier.gradient)
    for other in (copy.deepcopy(purifier), pickle.loads(pickle.dumps(purifier))):
        assert not other.gradient._graphs and other.gradient.memory == 2**30
        assert torch.equal(gradient(other, other.gradient)[0], exact)


def test_memory_identifies_no_run():
    from common.records.fingerprint import identify

    modes = (Checkpoint(), Checkpoint(memory=5), Checkpoint(memory="auto"))
    gradient(diffpure(steps=2).purifier, modes[1])
    assert len({identify({"mode": mode})[0] for mode in modes}) == 1
    assert identify({"mode": Checkpoint(verify=True)})[0] != identify({"mode": modes[0]})[0]
