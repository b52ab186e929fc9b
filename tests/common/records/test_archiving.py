"""Archives: the rows of a run in one compressed file, equal bytes for equal rows, read as any file of records."""

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest

from common.checks.bounds import BoundError
from common.experiments.stages import is_finished
from common.records.archiving import archive
from common.records.reading import read_table
from common.records.record_files import ARCHIVE, MERGED
from common.records.rows import Header, header_line, parse, record_line, unsealed
from common.records.schema import Cost, Record, Source
from common.records.store import Records
from tests.common.records.made import attacked_record, clean_record

CONFIG = {"data": "digits"}
COST = Cost(7.0, 0.25, 1000)


def written(path: Path, rows: list[Record], merge: bool = True) -> Path:
    """A records directory whose rows came in this order, each half from a process of its own."""
    for half in (rows[::2], rows[1::2]):
        records = Records(path, "f", CONFIG, session=str(len(half)))
        records.append(half)
        if merge:
            records.merge()
        records.close()
    return path


def some_rows(n: int = 12) -> list[Record]:
    pictured = [attacked_record(i, cost=COST, images={"clean": "aGk="} if i < 3 else {}) for i in range(n)]
    return [*pictured, *(clean_record(i, cost=COST) for i in range(n))]


def test_equal_rows_give_equal_bytes_whatever_wrote_them(tmp_path: Path) -> None:
    rows = some_rows()
    one, other = written(tmp_path / "a", rows), written(tmp_path / "b", rows[::-1], merge=False)
    os.utime(one / MERGED, (0, 0))
    found = [archive(run, tmp_path / run.name / "kept")[0].read_bytes() for run in (one, other)]
    assert found[0] == found[1] and found[0][3:8] == bytes(5)  # neither a name nor a time
    assert archive(tmp_path / "a" / "kept", tmp_path / "again")[0].read_bytes() == found[0]
    assert archive(one, tmp_path / "a" / "kept")[0].read_bytes() == found[0]


def test_an_archive_holds_every_row_with_cost_and_without_images(tmp_path: Path) -> None:
    rows = some_rows()
    (file,) = archive(written(tmp_path / "run", rows), tmp_path / "kept")
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    expected = sorted((replace(row, images={}) if "images" in vars(row) else row for row in rows), key=lambda r: r.key)
    assert lines == [header_line(Header("f", CONFIG)), *map(record_line, expected)]
    assert all(unsealed(line[:-1]) for line in lines)
    for found in (read_table(file)[1], read_table(tmp_path / "kept")[1], parse(file)[1], Records.read(file)):
        assert [(row, row.cost) for row in found] == [(row, COST) for row in expected]


def test_a_test_resumes_in_an_archive_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    rows = some_rows()
    (file,) = archive(written(tmp_path / "run", [*rows[:8], *rows[12:]]), tmp_path / "kept")
    before = file.read_bytes()
    records = Records(tmp_path / "kept", "f", CONFIG, session="now")
    assert records.done(Source("pgd")) == set(range(8)) and records.done(Source("clean")) == set(range(12))
    assert len(records.resumed) == 20
    records.append(rows[8:12])
    records.merge()
    records.close()
    assert file.read_bytes() == before and len(list((tmp_path / "kept").glob("part-*.jsonl"))) == 1
    assert [(row, row.cost) for row in read_table(tmp_path / "kept")[1]] == [
        (replace(row, images={}) if "images" in vars(row) else row, COST) for row in sorted(rows, key=lambda r: r.key)
    ]
    (file,) = archive(tmp_path / "kept", tmp_path / "kept")  # takes the new rows in
    assert len(read_table(file)[1]) == 24


def test_rows_of_an_earlier_archive_are_kept_and_another_configuration_is_refused(tmp_path: Path) -> None:
    rows, kept = some_rows(), tmp_path / "kept"
    archive(written(tmp_path / "first", rows[:6]), kept)
    (file,) = archive(written(tmp_path / "second", rows[4:]), kept)
    assert len(read_table(file)[1]) == 24
    other = Records(tmp_path / "other", "another", {"data": "letters"})
    other.append(rows[:1])
    with pytest.raises(ValueError, match=r"holds records of another configuration.*data: 'digits' -> 'letters'"):
        archive(tmp_path / "other", kept)
    assert len(read_table(file)[1]) == 24


def test_diagnostics_are_archived_beside(tmp_path: Path) -> None:
    written(tmp_path / "run", some_rows())
    written(tmp_path / "run" / "diagnostics", [clean_record(0, evaluator="other")])
    files = archive(tmp_path / "run", tmp_path / "kept")
    assert [file.relative_to(tmp_path / "kept").as_posix() for file in files] == [ARCHIVE, f"diagnostics/{ARCHIVE}"]
    assert len(read_table(files[1])[1]) == 1


def test_an_archive_counts_as_a_finished_test_until_rows_are_added(tmp_path: Path) -> None:
    rows, kept = some_rows(), tmp_path / "kept"
    archive(written(tmp_path / "run", rows[:20], merge=False), kept)
    assert not is_finished(tmp_path / "run") and is_finished(kept)
    records = Records(kept, "f", CONFIG)
    records.append(rows[20:])
    assert not is_finished(kept)
    records.merge()
    assert is_finished(kept)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.98])
def test_a_torn_archive_is_damage(kept: float, tmp_path: Path) -> None:
    (file,) = archive(written(tmp_path / "run", some_rows()), tmp_path / "kept")
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(ValueError, match=r"records\.jsonl\.gz is damaged \(.*delete it and run the same test again"):
        read_table(tmp_path / "kept")


@pytest.mark.parametrize("change", ["edited", "torn", "bytes"])
def test_an_edited_archive_is_damage(change: str, tmp_path: Path) -> None:
    (file,) = archive(written(tmp_path / "run", some_rows()), tmp_path / "kept")
    text = gzip.decompress(file.read_bytes())
    changed = text.replace(b'"label": 1', b'"label": 2', 1)
    edited = {"edited": changed, "torn": text[:-9], "bytes": b"no archive"}[change]
    file.write_bytes(edited if change == "bytes" else gzip.compress(edited))
    with pytest.raises(ValueError, match=r"records\.jsonl\.gz.* is damaged.*[Dd]elete (it|the file)"):
        read_table(tmp_path / "kept")


def test_the_content_of_an_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = record_line(clean_record())
    tmp_path.joinpath(ARCHIVE).write_bytes(gzip.compress(header_line(Header("f", CONFIG)) + line * 5000))
    monkeypatch.setattr("common.records.record_files.SMALL", 1000)
    assert len(read_table(tmp_path)[1]) == 1
    monkeypatch.setenv("ROBUST_DIFFUSION_BOUNDS", "archive=2")
    with pytest.raises(BoundError, match="bytes of records"):
        read_table(tmp_path)


def test_compressed_part_files_are_read(tmp_path: Path) -> None:
    rows = some_rows()
    written(tmp_path, rows, merge=False)
    for part in tmp_path.glob("part-*.jsonl"):
        part.with_name(f"{part.name}.gz").write_bytes(gzip.compress(part.read_bytes()))
        part.unlink()
    assert list(read_table(tmp_path)[1]) == sorted(rows, key=lambda row: row.key)
