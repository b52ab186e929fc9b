"""Published weights by name: cards, downloads, checksums."""

from common.hub.cards import Card, get_card
from common.hub.fetching import fetch
from common.hub.published import load_weights, published_classifier, published_denoiser

__all__ = [
    "Card",
    "fetch",
    "get_card",
    "load_weights",
    "published_classifier",
    "published_denoiser",
]
