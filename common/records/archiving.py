"""Archives of finished runs: all rows of a directory in one compressed file, to be kept and published."""

import gzip
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common.files.replacing import write
from common.records.merging import merged
from common.records.reading import read_table
from common.records.record_files import ARCHIVE, DIAGNOSTICS, holds_records
from common.records.rows import Header, header_line, other_configuration, record_line
from common.records.schema import AttackedRecord
from common.records.table import Table

LEVEL = 9  # of the compression


def archive(run: Path, folder: Path) -> list[Path]:
    """Write the rows of the directory ``run``, and those of its diagnostics, to ``records.jsonl.gz`` in ``folder``.

    One row per key in the order of keys, with its cost and without stored images. The same rows give the same bytes:
    the file has neither name nor time. Rows of an archive that is there are kept. Returns the files. Raises
    ``ValueError`` for a directory without records, and if the archive there is of another configuration.
    """
    pairs = [(run, folder)]
    if holds_records(run / DIAGNOSTICS):
        pairs.append((run / DIAGNOSTICS, folder / DIAGNOSTICS))
    return [_archive(*pair) for pair in pairs]


def _archive(run: Path, folder: Path) -> Path:
    target = folder / ARCHIVE
    header, table = read_table(run)
    if target.exists():
        known, kept = read_table(target)
        if known.fingerprint != header.fingerprint:
            raise ValueError(other_configuration(target, known, header))
        table = merged([*table.parts, *kept.parts], run)
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    with gzip.GzipFile("", "wb", LEVEL, content, mtime=0) as file:
        file.writelines(_lines(header, table))
    write(target, content.getvalue(), "keep the records in")
    return target


def _lines(header: Header, table: Table) -> Iterator[bytes]:
    yield header_line(replace(header, session=""))
    for row in table:
        yield record_line(replace(row, images={}) if isinstance(row, AttackedRecord) and row.images else row)
