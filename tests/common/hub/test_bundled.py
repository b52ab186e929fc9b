"""Weights that come with the package: checksums, sizes, and their classes."""

from dataclasses import replace

import pytest
import torch

from common.checkpoints.files import file_sha256
from common.hub.bundled import BUNDLED
from common.hub.cache import cached_path, file_size
from common.hub.cards import CARDS, get_card
from common.hub.fetching import fetch
from common.hub.published import published_classifier, published_denoiser, published_network

X = torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_card_is_that_of_the_file(name):
    card = BUNDLED[name]
    assert (card.path.stat().st_size, file_sha256(card.path)) == (card.size, card.sha256)
    assert name not in CARDS


def test_together_they_stay_small():
    assert sum(card.size for card in BUNDLED.values()) <= 20e6


def test_they_load_by_the_names_of_their_cards():
    assert published_classifier("cifar10_jpeg_classifier")(X).shape == (2, 10)
    denoiser = published_denoiser("cifar10_jpeg_denoiser")
    assert denoiser.num_classes == 10 and denoiser(X, torch.full((2,), 0.5)).shape == X.shape


def test_a_path_beside_a_bundled_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is bundled"):
        published_classifier("cifar10_jpeg_classifier", path=tmp_path / "other.safetensors")


def test_a_bundled_file_that_is_not_that_of_its_card_is_refused(tmp_path, monkeypatch):
    """A changed weight, and the file of another network, load without an error of their own."""
    first, second = "cifar10_jpeg_classifier", "cifar10_jpeg_adversarial"
    content = bytearray(BUNDLED[first].path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(content)
    for file in (str(tmp_path / "changed.safetensors"), BUNDLED[second].file):
        monkeypatch.setitem(BUNDLED, first, replace(BUNDLED[first], file=file))
        with pytest.raises(ValueError, match=f"must be the weights {first}, sha256 {BUNDLED[first].sha256}; got"):
            published_classifier(first)
    monkeypatch.setitem(BUNDLED, first, replace(BUNDLED[first], file=str(tmp_path / "none.safetensors")))
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.safetensors\. Install"):
        published_classifier(first)


TAKERS = (published_classifier, published_denoiser, published_network, fetch, get_card, cached_path, file_size)


@pytest.mark.parametrize("take", TAKERS, ids=lambda take: take.__name__)
def test_a_name_must_be_a_text(take):
    for name in (3, None, ["cifar10_jpeg_classifier"], ""):
        with pytest.raises(ValueError, match=r"^name must be a text that is not empty; got .*fetch lists them$"):
            take(name)
