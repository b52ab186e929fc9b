"""The errors of damaged records name file and line, and following their advice lets the same test go on."""

import json
import re
import shutil
from pathlib import Path

import pytest

from common.records.rows import FORMAT, sealed, unsealed
from common.records.store import Records
from tests.common.records.made import attacked_record, clean_record

ROWS = [*(clean_record(index, label=1) for index in range(4)), *(attacked_record(index, label=1) for index in range(4))]


def written(folder, merged):
    """A directory with two parts, the second of which has a torn end, and the merged file if asked for."""
    for rows in (ROWS[:4], ROWS[4:]):
        records = Records(folder, "f", {"x": 1})
        records.append(rows)
    if merged:
        records.merge()
    return sorted(folder.glob("*.jsonl"))


def without_header(lines):
    return lines[1:]


def empty_header(lines):
    return [b"\n", *lines[1:]]


def no_json_header(lines):
    return [b"{\n", *lines[1:]]


def header_in_the_middle(lines):
    return [lines[0], lines[1], lines[0], *lines[2:]]


def cut(lines):
    return [*lines[:2], lines[2][:30] + b"\n", *lines[3:]]


def bytes_changed(lines):
    return [*lines[:3], lines[3].replace(b"1", b"2"), *lines[4:]]


def empty_line(lines):
    return [lines[0], b"\n", *lines[1:]]


def no_text(lines):
    return [*lines[:2], b"\xff\xfe\x00\n", *lines[3:]]


def other_kind(lines):
    return [*lines[:2], sealed('{"kind": "other"}'), *lines[3:]]


def other_label(lines):
    row = unsealed(lines[2].rstrip(b"\n")) | {"label": 3}
    return [*lines[:2], sealed(json.dumps(row)), *lines[3:]]


DAMAGES = [without_header, empty_header, no_json_header, header_in_the_middle, cut, bytes_changed, empty_line, no_text,
           other_kind, other_label]  # fmt: skip


def follow(message: str) -> None:
    """Do what a message says: delete a file, or the lines that it names."""
    named = [(Path(file), int(number)) for file, number in re.findall(r"([^ ;(]*\.jsonl), line (\d+)", message)]
    assert named, message
    if "Delete the file" in message:
        named[0][0].unlink()
        return
    assert re.search("Delete that line (and that of .*)?and run|delete all these lines and run", message)
    for file, number in named:
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(lines[: number - 1] + lines[number:]))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_remedy_works(tmp_path, damage, place, merged):
    file = written(tmp_path, merged)[place]
    file.write_bytes(b"".join(damage(file.read_bytes().splitlines(keepends=True))))
    records = None
    while records is None:
        try:
            records = Records(tmp_path, "f", {"x": 1})
        except ValueError as error:
            follow(str(error))  # each time something is deleted
    missing = [row for row in ROWS if row.index not in records.done(row.source)]
    assert len(missing) <= 4
    records.append(missing)
    records.merge()
    assert Records.read(tmp_path) == Records.read(tmp_path / "records.jsonl") == sorted(ROWS, key=lambda row: row.key)


@pytest.mark.parametrize("merged", [False, True])
def test_rows_that_disagree_are_named_with_file_and_line(tmp_path, merged):
    first = Records(tmp_path, "f")
    first.append([clean_record(0, label=1), clean_record(1, label=1)])
    if merged:
        first.merge()
    other = tmp_path / "part-99999-1-x.jsonl"
    lines = next(tmp_path.glob("part-0*")).read_bytes().splitlines(keepends=True)
    row = unsealed(lines[2].rstrip(b"\n")) | {"predictions": [7]}
    other.write_bytes(lines[0] + sealed(json.dumps(row)))
    with pytest.raises(ValueError, match=r"image 1, disagree: .* delete all these lines") as error:
        Records(tmp_path, "f")
    assert len(re.findall("jsonl, line", str(error.value))) == 2 + merged and f"{other}, line 2" in str(error.value)
    follow(str(error.value))
    again = Records(tmp_path, "f")
    again.append([clean_record(1, label=1)])
    assert [row.index for row in again.all()] == [0, 1]


@pytest.mark.parametrize("way", ["removed", "moved", "made anew"])
def test_a_folder_that_vanishes_is_noticed_at_the_next_row(tmp_path, way):
    place = tmp_path / "records"
    records = Records(place, "f")
    records.append([clean_record(0)])
    place.rename(tmp_path / "elsewhere")
    if way == "removed":
        shutil.rmtree(tmp_path / "elsewhere")
    if way == "made anew":
        Records(place, "f")
    with pytest.raises(FileNotFoundError, match=r"part-.* was removed or moved .* run the same command again"):
        records.append([clean_record(1)])
    with pytest.raises(FileNotFoundError, match="was removed or moved"):
        records.merge()


def test_a_key_that_comes_twice_is_damage(tmp_path):
    """A reader of the text and this program would take different values."""
    part = written(tmp_path, merged=False)[0]
    header, first, *rest = part.read_bytes().splitlines(keepends=True)
    for place, name in ((1, "label"), (0, "fingerprint")):
        lines = [header, first]
        text = lines[place].decode().strip()[: -len(', "crc": "01234567"}')]
        lines[place] = sealed(f'{text}, "{name}": 7}}')
        part.write_bytes(b"".join([*lines, *rest]))
        with pytest.raises(ValueError, match=f"line {place + 1} is damaged .the key '{name}' comes twice"):
            Records.read(tmp_path)


@pytest.mark.parametrize("content", [b"\0", b"{"])
def test_a_line_without_an_end_is_not_read_into_memory(tmp_path, monkeypatch, content):
    """A sparse file of zeros takes no space on the disk, and any amount of memory."""
    monkeypatch.setenv("ROBUST_DIFFUSION_BOUNDS", "line=1e6")
    part = tmp_path / "part-0.jsonl"
    with part.open("wb") as file:
        file.write(content)
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"part-0.jsonl, line 1 asks for 1,000,001 bytes; at most 1,000,000"):
        Records.read(tmp_path)


@pytest.mark.parametrize("evaluators", [5, "x", {"a": 1}, [[]], ["x"], [None], [{"name": "a"}, 1]])
def test_a_header_whose_evaluators_are_no_objects_is_damage(tmp_path, evaluators):
    """Not an error in the report that reads them."""
    header = {"format": FORMAT, "fingerprint": "f", "config": {"evaluators": evaluators}}
    (tmp_path / "records.jsonl").write_bytes(sealed(json.dumps(header)))
    with pytest.raises(ValueError, match=r"line 1 is damaged .the evaluators of its config must be a list of objects"):
        Records.read(tmp_path)


def test_an_evaluator_has_a_short_name():
    """Figures and tables of a name of a million characters take minutes."""
    clean_record(evaluator="n" * 1000)
    with pytest.raises(ValueError, match="evaluator must have at most 1000 characters; got 1001"):
        clean_record(evaluator="n" * 1001)
