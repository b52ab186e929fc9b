"""Dotted paths of nested descriptions."""

from common.records.dotted_paths import differences, flattened


def test_every_leaf_has_a_path():
    assert flattened({"a": {"b": [1, {"c": 2}]}, "d": {}, "e": []}) == {"a.b.0": 1, "a.b.1.c": 2, "d": {}, "e": []}
    assert flattened(3) == {"": 3}
    assert flattened({0: "first"}) == {"0": "first"}


def test_differences_name_every_path():
    first, second = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 3, "c": [1, 4]}, "e": 2}
    assert differences(first, second) == [("a.b", 1, 3), ("d", 2, None), ("a.c.1", None, 4), ("e", None, 2)]
