"""Records: one JSON row per image and evaluation; schema, store, summaries, paired tests and fingerprints.

.. include:: README.md
"""

from common.records.schema import (
    AttackedRecord,
    CertifiedRecord,
    ClaimedRecord,
    CleanRecord,
    Cost,
    ForecastRecord,
    GradientCheckRecord,
    Kind,
    Record,
    Role,
    Source,
)
from common.records.store import Records
from common.records.summary import Summary

__all__ = [
    "AttackedRecord",
    "CertifiedRecord",
    "ClaimedRecord",
    "CleanRecord",
    "Cost",
    "ForecastRecord",
    "GradientCheckRecord",
    "Kind",
    "Record",
    "Records",
    "Role",
    "Source",
    "Summary",
]
