"""An undefended classifier of digits."""

import pytest
import torch
from torch import nn

from common.robustness.classifiers import NetworkClassifier


@pytest.fixture(scope="package")
def digits_network():
    """(classifier, 40 test images (40,1,8,8), their labels): convolutions trained for a second, accuracy 97 %."""
    from common.data.digits import Digits

    data = Digits()
    data.load()
    image, label = data.train.images, data.train.labels
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
    adam = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(100):
        batch = torch.randint(len(image), (128,), generator=generator)
        adam.zero_grad()
        nn.functional.cross_entropy(network(image[batch]), label[batch]).backward()
        adam.step()
    return NetworkClassifier(network).freeze(), data.held_out.images[:40], data.held_out.labels[:40]
