"""Denoisers and classifiers from published or bundled weights, by the name of their card.

published_classifier("cifar10_jpeg_classifier")                         # comes with the package
fetch("guided_diffusion_imagenet256")                                   # -> path of the verified file
denoiser = published_denoiser("guided_diffusion_imagenet256")           # from the cache
denoiser = published_denoiser("guided_diffusion_imagenet256", download=True)
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from common.checkpoints import loading
from common.checkpoints.files import file_sha256, require_file
from common.checkpoints.formats.reading import read_published, select_tensors
from common.checkpoints.formats.wrapped_names import take_normalisation
from common.checkpoints.state import assign_state
from common.checks.settings import check_text
from common.diffusion.denoisers import Denoiser
from common.hub.bundled import BUNDLED, LISTED, Bundled
from common.hub.cache import cached_path
from common.hub.cards import get_card
from common.hub.fetching import fetch
from common.naming.parameters import name_arguments
from common.robustness.classifiers import Classifier, NetworkClassifier

T = TypeVar("T")


@name_arguments
def published_denoiser(name: str, download: bool = False, path: str | Path | None = None) -> Denoiser:
    """The denoiser of a card; ``download=True`` fetches a file that is not in the cache.

    ``path`` names another file to read in the card's format with its config; it is not verified. Cards of bundled
    weights need neither (`common.hub.bundled`). In a configuration:
    ``class_path: common.hub.published_denoiser, init_args: {name: CARD}``.

    Raises ``FileNotFoundError`` for a missing file, ``ValueError`` for one that does not fit, and errors of `fetch`.
    """
    return _loaded(loading.load_denoiser, name, download, path)


@name_arguments
def published_classifier(name: str, download: bool = False, path: str | Path | None = None) -> Classifier:
    """The classifier of a card; arguments and errors as for `published_denoiser`."""
    return _loaded(loading.load_classifier, name, download, path)


@name_arguments
def published_network(name: str, download: bool = False, path: str | Path | None = None) -> nn.Module:
    """The network of a card, as its publishers call it; arguments and errors as for `published_denoiser`."""
    return _loaded(loading.load_network, name, download, path)


def _loaded(load: Callable[..., T], name: str, download: bool, path: str | Path | None) -> T:
    """Result of ``load`` on a bundled file, or on that of a card with its format and config; both are verified."""
    if check_text("name", name, LISTED) in BUNDLED and path is None:
        return load(_verified(name, BUNDLED[name]))
    card = get_card(name)
    return load(_local_file(name, download, path), card.format, card.config)


def _verified(name: str, card: Bundled) -> Path:
    """The file of bundled weights, of the card's sha256."""
    if not card.path.is_file():
        raise FileNotFoundError(f"{name} comes with the package, but there is no {card.path}. Install it again.")
    if (found := file_sha256(card.path)) != card.sha256:
        raise ValueError(
            f"{card.path} must be the weights {name}, sha256 {card.sha256}; got {found}. Install the package again, or "
            "load another file by load_denoiser, load_classifier or load_network."
        )
    return card.path


def _local_file(name: str, download: bool, path: str | Path | None) -> Path:
    """``path`` if there is one, else the verified file of a card, downloaded on request."""
    card, cached = get_card(name), cached_path(name)
    if path is not None:
        return require_file(path)
    if not download and not cached.exists():
        raise FileNotFoundError(
            f"{name} is not at {cached}. Fetch it with: robust-diffusion fetch {name} (in Python download=True), "
            f"or save it there from {card.page}."
        )
    return fetch(name)


@name_arguments
def load_weights(network: nn.Module, path: str | Path, ema: bool = True) -> nn.Module:
    """``network`` with the weights of a file, in evaluation mode: tensors by name, exactly those of the network.

    The file holds the tensors themselves, or keeps them under "state_dict", "model_state_dict", "model", "net" or
    "network", also in one another; prefixes ``module.``, ``model.``, ``net.``, ``network.`` and ``_orig_mod.`` of all
    names are removed, or added where all names of the network have one. Where it holds averaged weights (EMA) beside
    raw ones, the averaged are read and a warning says so; ``ema=False`` reads the raw ones. If it holds mean and
    standard deviation of the input (``mu``, ``sigma``), the network is returned with this normalisation, as a
    `NetworkClassifier`. Nothing in the file is executed. In a configuration::

        class_path: common.hub.load_weights
        init_args: {network: {class_path: common.networks.CIFARResNet}, path: resnet50.pth}

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    path = require_file(path)
    content = read_published(path, "torch")
    state = select_tensors(content, "torch", network, str(path), ema)
    normalisation = take_normalisation(state, network.state_dict())
    loaded = assign_state(network, state, str(path))
    return NetworkClassifier(loaded, *normalisation).eval() if normalisation else loaded
