"""A checksum changes with each value of a tensor, and with their order."""

import pytest
import torch
from torch import nn

from common.records.checksums import checksums, tensor_checksums

VALUES = torch.arange(5000.0).view(50, 100)
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.complex64, torch.bool)
ORDERS = {
    "rolled": lambda x: x.roll(1, 1),
    "rolled by a row of the view": lambda x: x.flatten().roll(1024).view(x.shape),
    "reversed": lambda x: x.flip(0),
    "transposed": lambda x: x.reshape(-1, 4).T.reshape(x.shape),
    "last two swapped": lambda x: torch.cat([x.flatten()[:-2], x.flatten()[-2:].flip(0)]).view(x.shape),
    "first and last": lambda x: torch.cat([x[-1:], x[1:-1], x[:1]]),
}


def checksum(value):
    return tensor_checksums({"": value})[""]


@pytest.mark.parametrize("change", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("rows", [50, 8])
def test_the_order_counts(change, rows):
    value = VALUES[:rows]
    assert checksum(change(value)) != checksum(value)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_each_value_of_each_type_counts_however_it_is_stored(kind):
    value = (VALUES % 2).to(kind)
    assert checksum(value) == checksum(value.t().contiguous().t())
    for place in (0, 1023, 1024, 4999):
        other = value.clone()
        other.view(-1)[place] = int(other.view(-1)[place] == 0)
        assert checksum(other) != checksum(value)


def test_parameters_and_buffers_of_a_state_dict_and_parameters_outside_it():
    module = nn.BatchNorm1d(3)
    module.register_buffer("passing", torch.ones(3), persistent=False)
    module.register_buffer("none", torch.empty(0))
    expected = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert checksums(module).keys() == expected
    before = checksums(module)
    module.num_batches_tracked.add_(1)
    assert [name for name, found in checksums(module).items() if found != before[name]] == ["num_batches_tracked"]
    module.state_dict = lambda *args, **kwargs: {}
    assert checksums(module).keys() == {"weight", "bias"}
    assert checksums(nn.Flatten()) == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: VALUES[:2].to_sparse(),
        lambda: torch.tensor(2.0).expand(1),
        lambda: torch.quantize_per_tensor(VALUES, 1.0, 0, torch.qint8),
    ],
    ids=["sparse", "expanded", "quantised"],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated; weights of others may hold it
def test_layouts(make):
    assert checksum(make()) == checksum(make().clone())
