"""Published weights by name: cards, downloads, checksums."""

from typing import TYPE_CHECKING

from common.naming.lazy_rooms import lazy_exports

if TYPE_CHECKING:
    from common.hub.cards import Card, get_card
    from common.hub.fetching import fetch
    from common.hub.published import load_weights, published_classifier, published_denoiser, published_network

__all__ = [
    "Card",
    "fetch",
    "get_card",
    "load_weights",
    "published_classifier",
    "published_denoiser",
    "published_network",
]

__getattr__ = lazy_exports(__name__)
