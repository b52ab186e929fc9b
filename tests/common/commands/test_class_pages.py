"""Pages of single classes: settings with types and defaults, and the description."""

import pytest

import cli
from common.commands.class_pages import parameters
from common.commands.errors import UsageError
from diffpure import DiffPureTask


@pytest.mark.parametrize("name", ["DiffPure", "diffpure.DiffPure", "diffpure.purifier.DiffPure"])
def test_a_class_is_described_by_any_of_its_names(name, capsys):
    cli.main(["test", "--help", name])
    page = capsys.readouterr().out
    assert page.startswith(f"{name} (diffpure.")
    assert "\n  denoiser: Module\n  t_star: float" in page
    assert "Purification by the reverse VP-SDE" in page and "self" not in page.split("\n\n")[1]


def test_a_function_is_described(capsys):
    cli.main(["fit", "-h", "load_denoiser"])
    assert "\n  path: str | Path\n  format: Literal[" in capsys.readouterr().out


def test_arguments_that_are_handed_on_belong_to_it():
    assert [*parameters(DiffPureTask)][:5] == ["purifier", "classifier", "evaluators", "records", "threat"]


def test_an_argument_that_a_base_takes_but_the_class_does_not_is_none():
    class Base:
        def __init__(self, hidden: int, shown: int = 1) -> None: ...

    class Closed(Base):
        def __init__(self, own: int) -> None: ...

    class Open(Base):
        def __init__(self, own: int, **kwargs: int) -> None: ...

    assert [*parameters(Closed)] == ["own"]
    assert [*parameters(Open)] == ["own", "hidden", "shown"]


def test_an_unknown_class_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"Did you mean DiffPure"):
        cli.main(["test", "--help", "DifPure"])
