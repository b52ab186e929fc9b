"""Configurations in layers: merging, bases beside a file and among the presets, and what is refused."""

import pytest
import yaml

from common.experiments.preset_layers import layers, merge_layers, read_config

MODEL = {"class_path": "DiffPureTask", "init_args": {"threat": {"eps": 0.5}, "evaluators": [1, 2]}}


@pytest.fixture
def write(tmp_path):
    """``write(name, **content)``: a YAML file in a folder of its own."""

    def file(name, **content):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return file


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"init_args": {"a": 1}}, {"class_path": "X", "init_args": {"b": 2}},
         {"class_path": "X", "init_args": {"a": 1, "b": 2}}),
        ({"class_path": "X", "init_args": {"a": 1}}, {"init_args": {"b": 2}},
         {"class_path": "X", "init_args": {"a": 1, "b": 2}}),
        ({"class_path": "X", "init_args": {"a": 1}}, {"class_path": "Y"}, {"class_path": "Y"}),
        ({"class_path": "common.robustness.PGD", "init_args": {"a": 1}}, {"class_path": "PGD", "init_args": {"b": 2}},
         {"class_path": "PGD", "init_args": {"a": 1, "b": 2}}),
    ],
)  # fmt: skip
def test_later_layers_win(earlier, later, merged):
    assert merge_layers(earlier, later) == merged


def test_bases_apply_from_left_to_right_and_then_the_file(write):
    write("lowest", model=MODEL, trainer={"max_epochs": 1, "logger": False})
    write("middle", base="lowest", trainer={"max_epochs": 2})
    write("beside", trainer={"max_epochs": 3}, seed_everything=7)
    path = write("top", base=["middle", "beside"], model={"init_args": {"evaluators": [3]}})
    assert read_config(path) == {
        "model": {"class_path": "DiffPureTask", "init_args": {"threat": {"eps": 0.5}, "evaluators": [3]}},
        "trainer": {"max_epochs": 3, "logger": False},
        "seed_everything": 7,
    }
    assert [file.stem for file in layers(path)] == ["lowest", "middle", "beside", "top"]


def test_a_base_may_be_a_preset(write):
    path = write("mine", base="tour/06-diffpure", model={"init_args": {"records": "runs/mine"}})
    config = read_config(path)
    assert config["model"]["class_path"] == "DiffPureTask"
    assert config["model"]["init_args"]["purifier"]["init_args"]["t_star"] == 0.1
    assert config["model"]["init_args"]["records"] == "runs/mine"


def test_numbers_are_read_as_the_command_line_reads_them(tmp_path):
    (tmp_path / "x.yaml").write_text("a: 1e-3\nb: 8/255\nc: 2020-01-01\n")
    assert read_config(tmp_path / "x.yaml") == {"a": 0.001, "b": "8/255", "c": "2020-01-01"}


@pytest.mark.parametrize("walk", [read_config, layers])
def test_a_circle_of_bases_is_refused(write, walk):
    write("one", base="two")
    path = write("two", base="one")
    with pytest.raises(ValueError, match=r"two\.yaml builds on itself, by way of two\.yaml and one\.yaml"):
        walk(path)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("tour/06-difpure", r"no preset. Did you mean tour/06-diffpure\?"),
        (3, "base must be a name or a list of names"),
        ([{"a": 1}], "base must be a name or a list of names"),
    ],
)
def test_bases_that_are_none_are_refused(write, base, message):
    with pytest.raises(ValueError, match=message):
        read_config(write("top", base=base))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "x.yaml, line 2 is not YAML"), ("- 1", "holds a list. Write NAME: VALUE"), ("", "holds nothing")],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text + "\n")
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "x.yaml")
