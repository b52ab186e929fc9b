"""A class_path in an argument is a subclass of the declared type; dictionaries are data; nothing else is imported."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
from torch import Tensor, nn

from common.commands.class_paths import restrict_class_paths
from common.commands.explanation import explain

PLANTED = "planted_by_a_stranger"


class Part:
    """Arguments of the kinds that configurations have, and some that our classes do not have yet."""

    def __init__(
        self,
        network: nn.Module | None = None,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "margin",
        options: dict[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        anything: Any = None,
        unknown=None,  # type: ignore[no-untyped-def]
        listed: list[Any] | None = None,
        plain: object = None,
    ) -> None:
        self.given = [network, loss, options, settings, anything, unknown, listed, plain]


def untyped() -> Any:
    return nn.Identity()


def typed(size: int) -> nn.Module:
    return nn.Linear(size, size)


def weighted(weight: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, label: weight * logits.sum(1)


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Part]:
    (tmp_path / f"{PLANTED}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(**given): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    restrict_class_paths()

    def build(**arguments: Any) -> Part:
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--part", type=Part)
        given = {"class_path": f"{__name__}.Part", "init_args": arguments}
        part: Part = parser.instantiate_classes(parser.parse_object({"part": given})).part
        return part

    return build


def spec(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


@pytest.mark.parametrize("argument", ["options", "settings", "anything", "unknown", "listed", "plain"])
@pytest.mark.parametrize("depth", [0, 2])
def test_data_are_not_built_and_their_modules_not_imported(
    parse: Callable[..., Part], tmp_path: Path, argument: str, depth: int
) -> None:
    value: Any = spec(f"{PLANTED}.run", command="x")
    value = {"inner": [{"deeper": value}]} if depth else value
    if argument in ("options", "settings"):
        value = {"key": value}
    if argument == "listed":
        value = [value]
    with pytest.raises(jsonargparse.ArgumentError, match="stands where plain data are expected"):
        parse(**{argument: value})
    assert not (tmp_path / "ran").exists() and PLANTED not in sys.modules


@pytest.mark.parametrize("path", ["os.system", "builtins.print", "tempfile.mkdtemp", "webbrowser.open", "json.loads"])
def test_no_function_is_called_for_a_callable(parse: Callable[..., Part], path: str) -> None:
    with pytest.raises(jsonargparse.ArgumentError):
        parse(loss=spec(path))
    with pytest.raises(jsonargparse.ArgumentError):
        parse(network=spec(path))


def test_functions_and_classes_of_the_declared_type_work(parse: Callable[..., Part]) -> None:
    assert isinstance(parse(network=spec(f"{__name__}.typed", size=3)).given[0], nn.Linear)
    assert parse(loss=spec(f"{__name__}.weighted", weight=2.0)).given[1](Tensor([[1, 2]]), None).item() == 6
    assert parse(options={"act_layer": "silu", "sizes": [1, {"a": 2}]}).given[2] == {
        "act_layer": "silu",
        "sizes": [1, {"a": 2}],
    }


def test_a_function_without_a_return_type_is_told_what_to_write(parse: Callable[..., Part]) -> None:
    with pytest.raises(jsonargparse.ArgumentError) as refused:
        parse(network=spec(f"{__name__}.untyped"))
    assert "def untyped(...) -> nn.Module:" in explain(str(refused.value), [])
    with pytest.raises(jsonargparse.ArgumentError) as refused:
        parse(loss=spec("json.loads", s="1"))
    assert "annotated to return a Callable" in explain(str(refused.value), [])
