"""Progress bar of a test: evaluations of the batch, accuracies, removal of its hooks."""

from types import SimpleNamespace

import pytest
import yaml

import cli
from common.engine.meter import Meter
from common.robustness.certification.crew import Crew
from common.tasks import progress_bar
from common.tasks.remaining import Remaining
from common.tasks.shares import Work
from tests.common.robustness.certification.test_crew import Board, Slow


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


def test_the_bar_goes_on_while_its_rank_helps_others(monkeypatch):
    """It has no batch any more; the images that the other rank does are counted, every half second."""
    clock, seen, other = [0.0], [], Crew(board := Board(), "test", 2, Slow(), [])
    monkeypatch.setattr(progress_bar.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(progress_bar.RichProgressBar, "on_test_batch_start", lambda *batch: None)
    bar, module, crew = progress_bar.LiveProgressBar(), Slow(), Crew(board, "test", 2, Slow(), [])
    bar.progress, bar._test_description = SimpleNamespace(update=lambda *_, **shown: seen.append(shown)), "Testing"
    bar.test_progress_bar_id, bar.refresh = 0, lambda: None
    module.work = Work(Remaining(10), crew)
    bar.on_test_batch_start(None, module, None, 0)
    bar._close_meter()

    def check():
        module.work.remaining.add([len(seen)])
        clock[0] += 0.3
        if clock[0] > 2:
            other.leave()

    crew.check = check
    crew.help()
    assert [shown["completed"] for shown in seen] == [2, 4, 6]
    assert all("images" in shown["description"] and "helps other ranks" in shown["description"] for shown in seen)


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
