"""`predict` resumes as a test does, and its table never disagrees with the images beside it."""

import csv
import os
import shutil

import lightning as L
import numpy as np
import pytest
from PIL import Image
from torch import nn

from common.data.image_files import ImageFiles
from common.files.locking import unlock
from common.files.replacing import unfinished_name
from common.robustness.classifiers import Classifier, NetworkClassifier, Purified
from common.robustness.evaluation.clean_and_certified import Clean
from common.tasks.prediction_folder import PredictionFolder
from common.tasks.robust import RobustTask
from common.tasks.save_predictions import SavePredictions
from common.tasks.unfinished_predictions import STAGING
from tests.common.files.test_locking import another_process


class Shift(nn.Module):
    """Purifier that adds a constant, and counts its images."""

    randomised = False

    def __init__(self, by):
        super().__init__()
        self.by, self.seen = by, []

    def forward(self, image, noise=None):
        self.seen += noise.index.tolist()
        return image + self.by

    def identity(self):
        return {"by": self.by}


class Corner(nn.Module):
    """Logits by the first ten pixels."""

    def forward(self, image):
        return image.flatten(1)[:, :10]


def purified(by=0.1):
    return Purified(Shift(by), NetworkClassifier(Corner()))


def predict(classifier: Classifier, path, out, **options):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[SavePredictions(out)],
    )  # fmt: skip
    data = ImageFiles(path, channels=1, **{"batch_size": 1} | options)
    trainer.predict(RobustTask(classifier, [Clean()]), datamodule=data, return_predictions=False)


@pytest.fixture
def folders(tmp_path):
    """Two folders of images: five, and three of the same names with other content."""
    for name, count in (("a", 5), ("b", 3)):
        (tmp_path / name / "deep").mkdir(parents=True)
        for number in range(count):
            image = np.random.default_rng([len(name), count, number]).integers(0, 200, (8, 8), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / name / ("deep" if number % 2 else "") / f"{number}.png")
    return tmp_path / "a", tmp_path / "b"


def contents(place, hidden=True):
    files = (path for path in place.rglob("*") if path.is_file())
    names = {path.relative_to(place): path.read_bytes() for path in files}
    return names if hidden else {name: text for name, text in names.items() if name.parts[0] != STAGING}


@pytest.fixture
def interrupted(monkeypatch):
    """``with interrupted(n)``: the n-th batch raises, as an interrupt would end the run."""

    def after(count):
        real, rows = PredictionFolder.append, []

        def append(self, *arguments):
            real(self, *arguments)
            rows.append(arguments)
            if len(rows) == count:
                raise OSError("interrupted")

        context = monkeypatch.context()
        context.__enter__().setattr(PredictionFolder, "append", append)
        return context

    return after


def run_interrupted(interrupted, count, *arguments, **options):
    context = interrupted(count)
    try:
        with pytest.raises(OSError, match="interrupted"):
            predict(*arguments, **options)
    finally:
        context.__exit__(None, None, None)


def test_an_interrupted_prediction_goes_on_and_its_result_is_that_of_an_uninterrupted_one(
    tmp_path, folders, interrupted
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict(purified(), folders[0], whole)
    first, again = purified(), purified()
    run_interrupted(interrupted, 2, first, folders[0], out)
    assert not contents(out, hidden=False).keys() & contents(whole).keys()  # results appear at the end
    predict(again, folders[0], out)
    assert contents(out) == contents(whole)
    assert len(first.purifier.seen) == 2 and len(again.purifier.seen) == 3


def test_a_row_that_a_kill_tore_off_is_predicted_anew(tmp_path, folders, interrupted):
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict(purified(), folders[0], whole)
    run_interrupted(interrupted, 3, purified(), folders[0], out)
    (part,) = (path for path in (out / STAGING).glob("part-*-*"))
    part.write_bytes(part.read_bytes()[:-9])
    (out / STAGING / "images" / unfinished_name()).with_name(".unfinished-x").touch()
    again = purified()
    predict(again, folders[0], out)
    assert contents(out) == contents(whole) and len(again.purifier.seen) == 3


def test_a_file_that_changed_in_between_is_predicted_anew(tmp_path, folders, interrupted):
    out = tmp_path / "out"
    run_interrupted(interrupted, 4, purified(), folders[0], out)
    Image.new("L", (8, 8), 50).save(folders[0] / "0.png")
    (folders[0] / "2.png").unlink()
    again, whole = purified(), tmp_path / "whole"
    predict(again, folders[0], out)
    predict(purified(), folders[0], whole)
    assert contents(out) == contents(whole) and len(again.purifier.seen) == 2


@pytest.mark.parametrize("other", ["images", "purifier", "size", "classes"])
def test_another_prediction_does_not_continue_an_interrupted_one(tmp_path, folders, interrupted, other):
    out = tmp_path / "out"
    run_interrupted(interrupted, 2, purified(), folders[0], out)
    before = contents(out)
    (tmp_path / "names").write_text("\n".join("abcdefghij"))
    options = {"size": {"size": 8}, "classes": {"class_file": tmp_path / "names"}}.get(other, {})
    with pytest.raises(ValueError, match=r"unfinished predictions of another configuration\. Changed: .* or delete"):
        predict(purified(0.2 if other == "purifier" else 0.1), folders[other == "images"], out, **options)
    assert contents(out).items() >= before.items()
    shutil.rmtree(out / STAGING)  # the remedy
    predict(purified(), folders[1], out)
    assert not (out / STAGING).exists()


def test_the_results_of_an_earlier_run_stay_until_the_next_one_is_complete(tmp_path, folders, interrupted):
    out, whole = tmp_path / "out", tmp_path / "whole"
    predict(purified(), folders[0], out)
    before = contents(out)
    (out / "mine.txt").write_text("of the user's")
    run_interrupted(interrupted, 2, purified(0.2), folders[1], out)
    assert contents(out, hidden=False).items() >= before.items()
    predict(purified(0.2), folders[1], out)
    predict(purified(0.2), folders[1], whole)
    (out / "mine.txt").unlink()
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("step", range(5))
def test_a_kill_while_results_are_moved_leaves_no_table_that_disagrees(tmp_path, folders, monkeypatch, step):
    out, whole = tmp_path / "out", tmp_path / "whole"
    predict(purified(), folders[0], out)
    predict(purified(0.2), folders[1], whole)
    real, moves = os.replace, []

    def replace(source, target):
        moves.extend([target] if not source.name.startswith(".unfinished-") else [])  # those of `finish`
        if len(moves) > step:
            raise OSError("killed")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="killed"):
            predict(purified(0.2), folders[1], out)
    unlock(out)
    if (out / "predictions.csv").exists():
        with (out / "predictions.csv").open(newline="") as file:
            assert all((out / row["purified"]).is_file() for row in csv.DictReader(file))
    again = purified(0.2)
    predict(again, folders[1], out)
    assert contents(out) == contents(whole) and not again.purifier.seen


def test_a_second_process_is_refused(tmp_path, folders):
    out = tmp_path / "out"

    def start():
        folder = PredictionFolder(out)
        folder.prepare(None, [])

    with another_process(start) as first:
        with pytest.raises(ValueError, match=rf"{out} is being written by process {first} on "):
            predict(purified(), folders[0], out)
        assert not [*out.glob("*.csv")]
    predict(purified(), folders[0], out)


@pytest.mark.parametrize("name", ["deep", STAGING, f"{STAGING}/images"])
def test_images_are_not_written_through_links(tmp_path, folders, name):
    """Links to folders are refused before the work begins."""
    out, elsewhere, classifier = tmp_path / "out", tmp_path / "elsewhere", purified()
    predict(purified(), folders[0], out)
    elsewhere.mkdir()
    shutil.rmtree(out / name, ignore_errors=True)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(elsewhere)
    with pytest.raises(ValueError, match=f"{name} is a link"):
        predict(classifier, folders[0], out)
    assert not [*elsewhere.iterdir()] and not classifier.purifier.seen


def test_a_folder_that_vanishes_is_noticed_at_the_next_image(tmp_path, folders, monkeypatch):
    out, real = tmp_path / "out", PredictionFolder.append

    def append(self, *arguments):
        real(self, *arguments)
        shutil.rmtree(out)

    monkeypatch.setattr(PredictionFolder, "append", append)
    classifier = purified()
    with pytest.raises(FileNotFoundError, match=r"part-.* was removed or moved while predictions were written"):
        predict(classifier, folders[0], out)
    assert len(classifier.purifier.seen) == 2


class Opaque(nn.Module):
    """Purifier with a lambda, which has no identity."""

    randomised = False

    def __init__(self):
        super().__init__()
        self.function = lambda image: image

    def forward(self, image, noise=None):
        return self.function(image)


def test_predictions_of_what_cannot_be_determined_are_not_continued(tmp_path, folders, interrupted):
    out, classifier = tmp_path / "out", Purified(Opaque(), NetworkClassifier(Corner()))
    run_interrupted(interrupted, 2, classifier, folders[0], out)
    with pytest.raises(ValueError, match=r"cannot be determined whether this run continues.*delete"):
        predict(classifier, folders[0], out)


def test_a_damaged_part_is_named(tmp_path, folders, interrupted):
    out = tmp_path / "out"
    run_interrupted(interrupted, 2, purified(), folders[0], out)
    (part,) = (out / STAGING).glob("part-*-*")
    part.write_bytes(part.read_bytes().replace(b"0.png", b"1.png"))
    with pytest.raises(ValueError, match=rf"{part}, line \d is damaged .*Delete that file"):
        predict(purified(), folders[0], out)
    part.unlink()  # the remedy
    predict(purified(), folders[0], out)
    assert len([*out.rglob("*.png")]) == 5
