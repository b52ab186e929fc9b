"""YAML of users: what is read, and mistakes refused with their line and remedy."""

import pytest

from common.experiments.yaml_files import parse, parse_mapping, read_text


def test_a_mapping_is_read_with_numbers_as_people_write_them():
    assert parse_mapping("a: {b: 1e-3, c: 1e3, d: '1'}\nb: null", "x") == {
        "a": {"b": 1e-3, "c": 1e3, "d": "1"},
        "b": None,
    }
    assert parse("a: &x {b: 1}\nc: *x", "x") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x, line 3: a stands twice in one mapping"),
        ("a:\n- {b: 1}\n- {b: 1, b: 1}", "x, line 3: b stands twice"),
        ("a: [1", "x, line 2 is not YAML"),
        ("a: *b", "begins with [*]"),
        ("a: !b c", "begins with !"),
        ("a: 1\n---\nb: 1", "one document"),
        ("a: \x00", "is not YAML.*Name a text file"),
        ("- a", "holds a list"),
        ("a:", "holds one value"),
        ("", "holds nothing"),
        ("3: 4", "has the name 3"),
        ("yes: 4", "has the name True"),
    ],
)
def test_a_mistake_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_mapping(text, "x")
    assert "\n" not in str(raised.value)


def test_files_that_are_no_text_and_folders_are_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="UTF-8; its byte 0 is not"):
        read_text(tmp_path / "image.png")
    with pytest.raises(OSError, match=f"cannot read {tmp_path}: "):
        read_text(tmp_path)
    (tmp_path / "windows.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_text(tmp_path / "windows.yaml") == "a: 1"
