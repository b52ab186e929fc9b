"""Weights of a file: averaged or raw, and only numbers that survive the cast to the network's type."""

import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.checkpoints.loading import load_network
from common.checkpoints.saving import save
from common.checkpoints.state import assign_state
from common.hub.published import load_weights
from common.networks import SmallCNN


def network():
    return SmallCNN(10, 1, 8)


def states():
    """Raw and averaged weights, which differ everywhere."""
    raw = network().state_dict()
    return raw, {name: value + 1 for name, value in raw.items()}


def loaded(content, path, **options):
    torch.save(content, path)
    state = load_weights(network(), path, **options).state_dict()
    return next(iter(state.values()))


RAW, AVERAGE = states()
FIRST = {name: next(iter(state.values())) for name, state in (("raw", RAW), ("average", AVERAGE))}


def wrapped(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


LAYOUTS = {
    "model and ema": {"model": RAW, "ema": AVERAGE, "epoch": 3},
    "timm": {"state_dict": RAW, "state_dict_ema": AVERAGE, "arch": "x"},
    "nested": {"model": RAW, "ema": {"module": AVERAGE, "decay": 0.99}},
    "shadow by name": {"net": RAW, "ema": {"shadow": AVERAGE}},
    "Lightning": {"state_dict": wrapped(AVERAGE, "model."), "current_model_state": wrapped(RAW, "model.")},
    "unaveraged": {"model_state_dict": AVERAGE, "unaveraged_model_state_dict": RAW},
    "averaged model": {"model": RAW, "ema": {**wrapped(AVERAGE, "module."), "n_averaged": torch.tensor(7)}},
    "compiled": {"model": wrapped(RAW, "_orig_mod."), "model_ema": wrapped(AVERAGE, "module._orig_mod.")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_averaged_weights_are_read_beside_raw_ones_with_a_warning(layout, tmp_path):
    path = tmp_path / "both.pt"
    with pytest.warns(UserWarning, match=r"both\.pt holds averaged weights \(.*the averaged weights are read; ema=F"):
        assert torch.equal(loaded(LAYOUTS[layout], path), FIRST["average"])
    with pytest.warns(UserWarning, match="the raw weights are read; ema=True reads the averaged ones"):
        assert torch.equal(loaded(LAYOUTS[layout], path, ema=False), FIRST["raw"])


ONE_KIND = [RAW, {"state_dict": RAW}, wrapped(RAW, "_orig_mod."), wrapped(RAW, "module.model.")]


@pytest.mark.parametrize("content", ONE_KIND, ids=["plain", "nested", "compiled", "wrapped twice"])
def test_a_file_of_one_kind_is_read_without_a_word(content, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(loaded(content, tmp_path / "one.pt"), FIRST["raw"])
        assert torch.equal(loaded({"ema": AVERAGE, "step": 1}, tmp_path / "two.pt"), FIRST["average"])


LISTED = [value.detach() for value in network().parameters()]
UNKNOWN = {
    "BasicSR": ({"state_dict": RAW, "params_ema": AVERAGE}, "params_ema"),
    "teacher": ({"model": RAW, "teacher": wrapped(AVERAGE, "module.")}, "teacher"),
    "shadow in an option": ({"net": RAW, "averaging": {"decay": 0.9, "shadow": AVERAGE}}, "averaging.shadow"),
    "callback": ({"state_dict": RAW, "callbacks": {"EMA": {"ema_state_dict": AVERAGE}}}, "callbacks.EMA.ema_state"),
    "list of a callback": ({"state_dict": RAW, "callbacks": {"EMA": {"ema_weights": LISTED}}}, "callbacks.EMA.ema_w"),
    "list of an optimiser": ({"state_dict": RAW, "optimizer": {"ema": LISTED}}, "optimizer.ema"),
    "beside a nested one": ({"model": {"state_dict": RAW}, "swa": AVERAGE}, "swa"),
}


@pytest.mark.parametrize("layout", UNKNOWN)
def test_weights_under_a_key_that_is_not_known_are_named_where_others_are_read(layout, tmp_path):
    content, place = UNKNOWN[layout]
    with pytest.warns(UserWarning, match=rf"under (model|state_dict|net), {place}.*: those under \1 are read"):
        assert torch.equal(loaded(content, tmp_path / "both.pt"), FIRST["raw"])


def test_other_tensors_of_a_training_are_not_taken_for_weights(tmp_path):
    trained = network()
    optimiser = torch.optim.Adam(trained.parameters())
    sum(value.sum() for value in trained.parameters()).backward()
    optimiser.step()
    rest = {"optimizer": optimiser.state_dict(), "few": dict(list(RAW.items())[:2]), "history": LISTED[:-1]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(loaded({"state_dict": RAW, **rest}, tmp_path / "training.pt"), FIRST["raw"])


@pytest.mark.filterwarnings("ignore:.*holds averaged weights")  # which ends in the error
def test_an_average_that_cannot_be_read_is_refused_instead_of_the_raw_weights(tmp_path):
    content = {"model": RAW, "ema": {"shadow_params": list(AVERAGE.values()), "decay": 0.99}}
    with pytest.raises(ValueError, match="under ema in a form that is not read"):
        loaded(content, tmp_path / "list.pt")
    with pytest.warns(UserWarning, match="the raw weights are read"):
        assert torch.equal(loaded(content, tmp_path / "list.pt", ema=False), FIRST["raw"])
    with pytest.raises(ValueError, match="averaged weights alone"):
        loaded({"ema": AVERAGE}, tmp_path / "alone.pt", ema=False)
    with pytest.raises(ValueError, match="one kind of weights; leave ema out"):
        load_network(tmp_path / "alone.pt", ema=False)


def test_buffers_that_an_average_of_parameters_leaves_out_are_the_raw_ones(tmp_path):
    norm = nn.BatchNorm2d(3)
    raw = {**norm.state_dict(), "running_mean": torch.tensor([1.0, 2.0, 3.0])}
    average = {name: value + 1 for name, value in norm.named_parameters()}
    torch.save({"model": wrapped(raw, "module."), "ema": average}, tmp_path / "norm.pt")
    with pytest.warns(UserWarning, match="averaged weights are read"):
        read = load_weights(nn.BatchNorm2d(3), tmp_path / "norm.pt")
    assert torch.equal(read.weight, torch.full((3,), 2.0)) and read.running_mean.tolist() == [1.0, 2.0, 3.0]


LINEAR = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
BAD = {
    "beyond float32": ({"bias": torch.tensor([0.0, 1e300], dtype=torch.float64)}, r"bias \(float64, up to 1e\+300\)"),
    "complex": ({"weight": torch.ones(2, 3) * 1j}, r"real floating-point .*weight \(complex64\)"),
    "integer codes": ({"weight": torch.ones(2, 3, dtype=torch.int8)}, r"weight \(int8\)"),
    "booleans": ({"bias": torch.ones(2, dtype=torch.bool)}, r"bias \(bool\)"),
    "NaN": ({"bias": torch.tensor([0.0, torch.nan])}, "NaN or infinity came in bias"),
    "infinity in float64": ({"bias": torch.tensor([0.0, -torch.inf], dtype=torch.float64)}, "NaN or infinity came in"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_a_cast_would_change_are_refused(case, tmp_path):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        assign_state(nn.Linear(3, 2), {**LINEAR, **changes}, "a file")
    save_file({**LINEAR, **changes}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=message):
        load_weights(nn.Linear(3, 2), tmp_path / "weights.safetensors")


def test_a_narrow_network_refuses_numbers_beyond_its_own_range():
    with pytest.raises(ValueError, match=r"weight \(float32, up to 7e\+04\)"):
        assign_state(nn.Linear(3, 2).half(), {**LINEAR, "weight": torch.full((2, 3), 7e4)}, "a file")
    wide = {name: value.double() for name, value in LINEAR.items()}
    assert assign_state(nn.Linear(3, 2), wide, "a file").weight.dtype == torch.float32


class Masked(nn.Module):
    """A causal attention: its mask is a buffer of 0 and -inf."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))


def test_a_mask_of_minus_infinity_is_no_divergence(tmp_path):
    state = Masked().state_dict()
    assert torch.equal(assign_state(Masked(), state, "a file").mask, state["mask"])
    for name, value in (("mask", torch.full((4, 4), torch.inf)), ("linear.bias", torch.tensor([0.0, -torch.inf]))):
        with pytest.raises(ValueError, match=f"NaN or infinity came in {name}"):
            assign_state(Masked(), {**state, name: value}, "a file")
    norm = {**nn.BatchNorm2d(2).state_dict(), "running_mean": torch.tensor([-torch.inf, 1.0])}
    with pytest.raises(ValueError, match="running_mean"):
        assign_state(nn.BatchNorm2d(2), norm, "a file")


@pytest.mark.parametrize(("kind", "tiny"), [(torch.float32, 1e-300), (torch.float16, 1e-30)])
def test_weights_that_a_cast_makes_zero_are_refused(kind, tiny):
    small = {"weight": torch.full((2, 3), tiny, dtype=torch.float64), "bias": torch.zeros(2, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"must lie in the range.*weight \(float64, up to 1e-"):
        assign_state(nn.Linear(3, 2).to(kind), small, "a file")
    one = small["weight"].index_fill(1, torch.tensor([0]), 1.0)  # single small numbers are rounding
    assert float(assign_state(nn.Linear(3, 2), {**small, "weight": one}, "a file").weight.sum().detach()) == 2.0


def test_a_network_that_diverged_is_not_saved(tmp_path):
    broken = network()
    with torch.no_grad():
        next(broken.parameters())[0] = torch.inf
    with pytest.raises(ValueError, match="this SmallCNN must be finite numbers"):
        save(broken, tmp_path / "new.safetensors")
    assert not list(tmp_path.iterdir())
