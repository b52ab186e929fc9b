"""Records: one JSON row per image and evaluator; store, summary and paired tests."""

from common.records.rows import Record
from common.records.store import Records

__all__ = [
    "Record",
    "Records",
]
