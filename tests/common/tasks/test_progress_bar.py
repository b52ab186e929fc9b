"""Progress bar of a test: evaluations of the batch, accuracies, removal of its hooks."""

import pytest
import yaml

import cli
from common.engine.meter import Meter
from common.tasks import progress_bar


@pytest.fixture
def descriptions(monkeypatch):
    """Descriptions of the bar, each time it is drawn."""
    seen = []

    class Recorder(progress_bar.LiveProgressBar):
        def refresh(self, hard=False):
            seen.extend(task.description for task in getattr(self.progress, "tasks", []))
            super().refresh(hard)

    monkeypatch.setattr(progress_bar, "INTERVAL", 0.0)
    monkeypatch.setattr("common.commands.lightning_commands.LiveProgressBar", Recorder)
    return seen


def with_bar(tiny_test, path):
    config = yaml.safe_load(tiny_test().read_text())
    config["trainer"]["enable_progress_bar"] = True
    path.write_text(yaml.safe_dump(config))
    return ["test", "-c", str(path)]


def test_the_bar_shows_the_cost_of_the_batch_and_the_accuracies(tiny_test, tmp_path, descriptions):
    cli.main(with_bar(tiny_test, tmp_path / "bar.yaml"))
    spent = [int(text.rsplit(" · ", 1)[1].split(" evaluations, ")[0]) for text in descriptions if "/s" in text]
    assert spent[0] == 0 and len(set(spent)) > 2 and max(spent) > 0
    assert "%" in descriptions[-1] and "evaluations" not in descriptions[-1]
    assert " · 13 of 13 images · " in descriptions[-1]
    assert any(" · 7 of 13 images, " in text and " left · " in text for text in descriptions)


def test_brackets_in_the_name_of_an_evaluator_are_shown(tiny_test, tmp_path, capsys):
    arguments = with_bar(tiny_test, tmp_path / "bar.yaml")
    config = yaml.safe_load((tmp_path / "bar.yaml").read_text())
    config["model"]["init_args"]["evaluators"][0]["init_args"] = {"name": "[/odd] name"}
    (tmp_path / "bar.yaml").write_text(yaml.safe_dump(config))
    cli.main(arguments)
    assert "[/odd] name" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_removed(tiny_test, tmp_path, descriptions, monkeypatch, fails):
    began, ended = [], []
    enter, leave = Meter.__enter__, Meter.__exit__
    monkeypatch.setattr(Meter, "__enter__", lambda self: began.append(self) or enter(self))
    monkeypatch.setattr(Meter, "__exit__", lambda self, *error: ended.append(self) or leave(self, *error))
    if fails:
        monkeypatch.setattr("common.tasks.RobustTask.test_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main(with_bar(tiny_test, tmp_path / "bar.yaml"))
    else:
        cli.main(with_bar(tiny_test, tmp_path / "bar.yaml"))
    assert began and set(began) == set(ended)
