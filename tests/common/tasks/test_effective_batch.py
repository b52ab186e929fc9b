"""Images per step and learning rate of a training on several processes, or of several batches per step."""

from types import SimpleNamespace

import pytest
import torch

from common.tasks.effective_batch import effective_batch


@pytest.mark.parametrize(
    ("processes", "batches", "text"),
    [
        (1, 1, ""),
        (8, 1, "8 processes x 50 images = 400 images per step, at learning rate 0.003, which"),
        (2, 4, "2 processes x 4 batches x 50 images = 400 images per step, at learning rate 0.003, which"),
    ],
)
def test_the_batch_of_a_step(processes, batches, text):
    """The rate is the recipe's, of which a schedule takes a part at first."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1)
    trainer = SimpleNamespace(
        train_dataloader=SimpleNamespace(batch_size=50), world_size=processes, accumulate_grad_batches=batches,
        optimizers=[optimizer],
    )  # fmt: skip
    found = effective_batch(trainer)
    assert found.startswith(text) and bool(found) == bool(text)
