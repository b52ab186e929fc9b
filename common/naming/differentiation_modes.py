"""Names of the differentiation modes of a purifier: in configurations, in attacks and in reports."""

from typing import Literal

Mode = Literal["checkpoint", "full", "bpda", "adjoint", "surrogate"]

APPROXIMATE: dict[str, str] = {
    "bpda": "the backward pass takes the purification for the identity",
    "adjoint": "the backward pass solves an adjoint equation instead of differentiating the deployed steps",
    "surrogate": "a coarser process is differentiated than the deployed one",
}
"""The modes that are not the exact gradient of the deployed process, with the difference in words."""
