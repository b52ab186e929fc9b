"""Published weights by name: cards, downloads, checksums."""

from common.hub.cards import Card, card
from common.hub.published import load_weights, published_classifier, published_denoiser

__all__ = [
    "Card",
    "card",
    "load_weights",
    "published_classifier",
    "published_denoiser",
]
