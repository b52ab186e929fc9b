"""`predict` on a folder: what is written is what the defence does, and nothing of the user's is touched."""

import csv
import hashlib

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import cli
from common.checkpoints.loading import load_classifier, load_denoiser
from common.data.decoding import UnreadableImageError
from common.data.digits import Digits
from common.data.image_files import ImageFiles
from common.data.unlabelled import UnlabelledImages, name_indices
from common.noise import Noise
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.evaluation.clean_and_certified import Clean
from common.robustness.voting import Voting
from common.tasks.prediction import Prediction, predict_batch
from common.tasks.prediction_folder import save_png, target_names
from common.tasks.robust import RobustTask
from common.tasks.save_predictions import SavePredictions
from diffpure.purifier import DiffPure


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup("test")
    return data.held_out


@pytest.fixture
def folder(tmp_path, digits):
    """Five real digits: grey, RGB, on a transparent ground, of 16 bits, of another size; and two broken files."""
    place = tmp_path / "images"
    (place / "deep").mkdir(parents=True)
    levels = (digits.images[:5, 0] * 255).round().to(torch.uint8).numpy()
    Image.fromarray(levels[0]).save(place / "a.png")
    Image.fromarray(np.stack([levels[1]] * 3, 2)).save(place / "a.bmp")
    Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), 255 - levels[2]])).save(place / "deep" / "c.png")
    Image.fromarray(levels[3].astype(np.uint16) * 257).save(place / "deep" / "d.png")
    Image.fromarray(np.pad(levels[4], 4)).save(place / "wide.webp", lossless=True)
    (place / "broken.jpg").write_text("no image")
    (place / "torn.png").write_bytes((place / "a.png").read_bytes()[:60])
    return place


@pytest.fixture
def defence(weights):
    """The one of `tiny_test`."""
    purifier = DiffPure(load_denoiser(weights / "denoiser.safetensors"), t_star=0.1, steps=2)
    return Purified(purifier, load_classifier(weights / "classifier.safetensors").freeze())


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(place):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.rglob("*") if path.is_file()}


def test_a_folder_is_purified_image_by_image(tiny_test, tmp_path, folder, digits, defence, capsys):
    before, out = contents(folder), tmp_path / "out"
    cli.main(["predict", "-c", str(tiny_test()), f"--data.init_args.path={folder}", f"--out={out}"])
    assert contents(folder) == before
    rows = table(out / "predictions.csv")
    names = ["a.bmp", "a.png", "broken.jpg", "deep/c.png", "deep/d.png", "torn.png", "wide.webp"]
    skipped = {"broken.jpg", "torn.png"}
    assert [row["file"] for row in rows] == [name for name in names if name not in skipped]
    assert [row["purified"] for row in rows] == ["a.bmp.png", "a.png", "deep/c.png", "deep/d.png", "wide.png"]
    assert {row["file"] for row in table(out / "skipped.csv")} == skipped
    assert "5 predicted, 2 skipped" in capsys.readouterr().out
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {"predictions.csv", "skipped.csv", *(row["purified"] for row in rows)}
    pixels = {"a.png": 0, "a.bmp": 1, "deep/c.png": 2, "deep/d.png": 3, "wide.webp": 4}
    for row in rows:  # one at a time, with the noise of its name
        image = digits.images[pixels[row["file"]]][None]
        image = nn.functional.pad(image, (4, 4, 4, 4)) if row["file"] == "wide.webp" else image
        image = (image * 255).round() / 255
        noise = Noise.of(0, torch.tensor(name_indices([row["file"]]))).stream("score")
        with torch.no_grad():
            purified = defence.purifier(image, noise)
            answers = {"before": defence.classifier(image), "after": defence.classifier(purified)}
        stored = torch.from_numpy(np.asarray(Image.open(out / row["purified"])).copy()) / 255
        assert (stored - purified[0, 0].clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-4
        for when, logits in answers.items():
            probability, number = logits.softmax(1)[0].max(0)
            assert int(row[when]) == int(number) == int(row[f"{when}_class"])
            assert float(row[f"{when}_probability"]) == pytest.approx(float(probability), rel=1e-3)


def test_the_result_of_an_image_does_not_depend_on_other_files(tiny_test, tmp_path, folder):
    """Nor on the place of the folder; an image given alone is purified as in its folder."""
    config = tiny_test()

    def run(path, out):
        cli.main(["predict", "-c", str(config), f"--data.init_args.path={path}", f"--out={tmp_path / out}"])
        return {row["file"]: row for row in table(tmp_path / out / "predictions.csv")}

    def differ(one, other):
        levels = [np.asarray(Image.open(tmp_path / name)).astype(int) for name in (one, other)]
        return abs(levels[0] - levels[1]).max()

    first = run(folder, "first")
    Image.new("L", (8, 8), 77).save(folder / "0.png")  # the first in the alphabet
    (folder / "torn.png").unlink()
    moved = folder.rename(tmp_path / "moved")
    second, alone = run(moved, "second"), run(moved / "a.png", "alone")
    assert set(second) == {*first, "0.png"}
    for name, row in first.items():  # in other batches, whose sums may be rounded otherwise: 1e-4, or one level of 255
        again = second[name]
        for when in ("before", "after"):
            assert row[when] == again[when]
            probabilities = [float(r[f"{when}_probability"]) for r in (row, again)]
            assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-4)
        assert differ(f"first/{row['purified']}", f"second/{again['purified']}") <= 1
    assert differ("alone/a.png", "first/a.png") <= 1
    assert alone["a.png"]["after"] == first["a.png"]["after"]


def test_broken_links_and_forbidden_files_are_listed(tiny_test, tmp_path, folder, monkeypatch):
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "good.png").symlink_to(folder / "a.png")
    (folder / "secret.png").write_bytes((folder / "a.png").read_bytes())
    real = Image.open

    def refuse(path, *arguments, **options):
        if path.name == "secret.png":  # root, as in a container, may read every file
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Image, "open", refuse)
    out = tmp_path / "out"
    arguments = [f"--data.init_args.path={folder}", "--data.init_args.size=8", f"--out={out}"]
    cli.main(["predict", "-c", str(tiny_test()), *arguments])
    reasons = {row["file"]: row["reason"] for row in table(out / "skipped.csv")}
    assert {*reasons} == {"broken.jpg", "torn.png", "gone.png", "loop.png", "secret.png"}
    assert "No such file" in reasons["gone.png"] and "symbolic links" in reasons["loop.png"]
    assert "Permission denied" in reasons["secret.png"]
    assert "good.png" in {row["file"] for row in table(out / "predictions.csv")}


def test_an_image_that_failed_once_is_listed(tmp_path, folder, weights, monkeypatch):
    """Read in vain when its turn came, though it can be read in the end: it is in one of the two tables."""
    files = ImageFiles(folder, channels=1, size=8)
    real, failed = UnlabelledImages.read, []

    def read(self, position):
        if self.names[position] == "a.png" and not failed:
            failed.append(position)
            raise UnreadableImageError("the disk was away")
        return real(self, position)

    monkeypatch.setattr(UnlabelledImages, "read", read)
    predict_into(load_classifier(weights / "classifier.safetensors"), files, tmp_path / "out")
    assert "a.png" not in {row["file"] for row in table(tmp_path / "out" / "predictions.csv")}
    reasons = {row["file"]: row["reason"] for row in table(tmp_path / "out" / "skipped.csv")}
    assert "Predict it again" in reasons["a.png"]


def test_predictions_are_those_of_a_test(tiny_test, tmp_path, defence):
    """Without a folder the test images are predicted, and a test's first draw agrees."""
    out = tmp_path / "out"
    cli.main(["predict", "-c", str(tiny_test()), f"--out={out}"])
    rows = table(out / "predictions.csv")
    data = Digits(test_images=13)
    data.setup("test")
    records = Clean()(defence, next(iter(data.test_dataloader())))
    assert [int(row["after"]) for row in rows] == [record.predictions[0] for record in records]
    assert [int(row["label"]) for row in rows] == [record.label for record in records]
    assert [row["purified"] for row in rows] == [f"{i:06d}.png" for i in range(13)]
    assert all((out / row["purified"]).is_file() for row in rows)


def test_two_processes_write_one_folder(tiny_test, tmp_path, folder):
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["predict", "-c", str(tiny_test()), f"--data.init_args.path={folder}", "--data.init_args.batch_size=1"]
    cli.main([*words, f"--out={one}"])
    cli.main([*words, f"--out={two}", "--trainer.devices=2", "--trainer.strategy=ddp_fork"])
    first, second = ({path.relative_to(out): sha for path, sha in contents(out).items()} for out in (one, two))
    assert first == second and len(first) == 7


@pytest.mark.parametrize("where", ["same", "inside", "around", "foreign", "file"])
def test_files_of_the_user_are_not_overwritten(tiny_test, tmp_path, folder, where):
    out = {"same": folder, "inside": folder / "out", "around": tmp_path}.get(where, tmp_path / "out")
    if where == "foreign":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    if where == "file":
        out.write_text("years of work")
    before = contents(tmp_path)
    config = tiny_test()
    with pytest.raises(ValueError, match="--out"):
        cli.main(["predict", "-c", str(config), f"--data.init_args.path={folder}", f"--out={out}"])
    assert before.items() <= contents(tmp_path).items()
    assert not (folder / "out").exists()


def test_a_second_run_replaces_the_first_ones_results(tiny_test, tmp_path, folder):
    words = ["predict", "-c", str(tiny_test()), f"--data.init_args.path={folder}", f"--out={tmp_path / 'out'}"]
    cli.main(words)
    first = contents(tmp_path / "out")
    (tmp_path / "out" / ".part-00003.jsonl").write_text('{"index": 0, "file": "left by an interrupted run"}\n')
    cli.main(words)
    assert contents(tmp_path / "out") == first


def test_resizing_and_class_names_are_two_arguments(tiny_test, tmp_path, folder):
    (tmp_path / "names.txt").write_text("\n".join(f"digit {n}" for n in range(10)))
    out = tmp_path / "out"
    arguments = [f"--data.init_args.path={folder}", "--data.init_args.size=8", f"--out={out}"]
    cli.main(["predict", "-c", str(tiny_test()), *arguments, f"--data.init_args.class_file={tmp_path / 'names.txt'}"])
    for row in table(out / "predictions.csv"):
        assert Image.open(out / row["purified"]).size == (8, 8)
        assert row["before_class"] == f"digit {row['before']}" and row["after_class"] == f"digit {row['after']}"


class Picky(nn.Module):
    """Takes images of 8x8 pixels only, as a U-Net takes multiples of something."""

    def forward(self, image):
        if image.shape[-1] != 8:
            raise RuntimeError("Sizes of tensors must match")
        return image.flatten(1)[:, :10]


def predict_into(classifier, data, out):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[SavePredictions(out)])
    return trainer.predict(RobustTask(classifier, [Clean()]), datamodule=data)


def test_sizes_that_the_network_rejects_are_skipped(tmp_path, folder):
    predict_into(NetworkClassifier(Picky()), ImageFiles(folder, channels=1), tmp_path / "out")
    assert "wide.webp" not in {row["file"] for row in table(tmp_path / "out" / "predictions.csv")}
    reasons = {row["file"]: row["reason"] for row in table(tmp_path / "out" / "skipped.csv")}
    assert "16x16" in reasons["wide.webp"] and "must match" in reasons["wide.webp"] and "size" in reasons["wide.webp"]
    assert len(reasons) == 3
    with pytest.raises(ValueError, match="no image could be predicted"):
        predict_into(NetworkClassifier(Picky()), ImageFiles(folder, size=4), tmp_path / "none")


def test_an_error_of_an_accepted_size_is_raised(tmp_path, folder):
    class Tired(Picky):
        calls = 0

        def forward(self, image):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("something else")
            return super().forward(image)

    data = ImageFiles(folder, channels=1, size=8, batch_size=1)
    with pytest.raises(ValueError, match=r"8x8 pixels were predicted before.*something else"):
        predict_into(NetworkClassifier(Tired()), data, tmp_path / "out")


def test_a_classifier_without_a_purifier_only_predicts(tmp_path, folder, weights):
    classifier = load_classifier(weights / "classifier.safetensors")
    (found,) = predict_into(classifier, ImageFiles(folder, channels=1, size=8), tmp_path / "out")
    assert found.purified is None and found.after is None and found.before.shape == (5, 10)
    rows = table(tmp_path / "out" / "predictions.csv")
    assert [*rows[0]] == ["file", "before", "before_probability"]
    assert [int(row["before"]) for row in rows] == found.before.argmax(1).tolist()
    assert not list((tmp_path / "out").glob("*.png"))


def test_voting_predicts_its_vote(defence, digits):
    image, index = digits.images[:6], torch.arange(6)
    voting = Voting(defence, 3)
    noise = Noise.of(0, index).stream("score")
    found = predict_batch(voting, (image, digits.labels[:6], index))
    with torch.no_grad():
        assert torch.allclose(found.after.log(), voting(image, noise).log_softmax(1), atol=1e-4)
        assert torch.allclose(found.before.log(), defence.classifier(image).log_softmax(1), atol=1e-4)
        first = defence.purifier(image, noise.draws(3).rows(slice(None, None, 3)))
    assert torch.allclose(found.purified, first, atol=1e-4)


def test_guidance_works_in_inference_mode(digits):
    """Guided purifiers take a gradient inside; Lightning's own trainer predicts in inference mode."""

    class Guided(nn.Module):
        def forward(self, image, noise):
            with torch.enable_grad():
                leaf = image.detach().requires_grad_()
                return image - torch.autograd.grad(leaf.square().sum() / 2, leaf)[0] / 2  # halves the image

    with torch.inference_mode():
        image = digits.images[:2].clone()
        found = predict_batch(
            Purified(Guided(), NetworkClassifier(Picky())), (image, torch.zeros(2).long(), torch.arange(2))
        )
    assert torch.allclose(found.purified, digits.images[:2] / 2)


def test_out_of_memory_names_the_batch_size():
    class Large(nn.Module):
        def forward(self, image):
            raise torch.OutOfMemoryError("CUDA out of memory")

    batch = torch.zeros(3, 1, 8, 9), torch.zeros(3).long(), torch.arange(3)
    with pytest.raises(ValueError, match=r"3 images of 8x9 pixels.*batch_size"):
        predict_batch(NetworkClassifier(Large()), batch)


def test_a_prediction_of_no_image_is_empty():
    nothing = torch.zeros(0, 3, 1, 1), torch.zeros(0).long(), torch.zeros(0).long()
    found = predict_batch(NetworkClassifier(Picky()), nothing)
    assert isinstance(found, Prediction) and len(found.index) == 0 and not found.failure


def test_target_names_are_distinct():
    names = ["a.jpg", "a.png", "a.webp", "b.PNG", "b.png", "c/a.jpg", "a.jpg.png"]
    found = dict(zip(names, target_names(names), strict=True))
    assert len({*found.values()}) == len(names) and all(name.endswith(".png") for name in found.values())
    for kept in ("a.png", "b.png", "a.jpg.png"):
        assert found[kept] == kept
    assert found["c/a.jpg"] == "c/a.png"
    assert found["a.webp"] == "a.webp.png"


def test_saved_images_are_clamped_and_rounded(tmp_path):
    values = torch.tensor([-0.3, 0.0, 100.4 / 255, 100.6 / 255, 1.0, 1.7]).view(1, 1, 6)
    save_png(values, tmp_path / "deep" / "grey.png")
    assert np.asarray(Image.open(tmp_path / "deep" / "grey.png")).tolist() == [[0, 0, 100, 101, 255, 255]]
    save_png(torch.stack([values[0], 0 * values[0], 1 - values[0]]), tmp_path / "rgb.png")
    assert np.asarray(Image.open(tmp_path / "rgb.png"))[0, 4].tolist() == [255, 0, 0]
    with pytest.raises(ValueError, match="1 or 3 channels"):
        save_png(torch.zeros(2, 4, 4), tmp_path / "two.png")


def test_the_bar_moves_with_every_step_of_a_purification(tiny_test, tmp_path, folder, monkeypatch):
    from common.tasks.progress_bar import LiveProgressBar

    seen = []

    class Recorder(LiveProgressBar):
        def refresh(self, hard=False):
            tasks = [] if self.progress is None else self.progress.tasks
            seen.extend((task.description, round(task.completed, 2)) for task in tasks)
            super().refresh(hard)

    monkeypatch.setattr("common.commands.lightning_commands.LiveProgressBar", Recorder)
    config = yaml.safe_load(tiny_test().read_text())
    config["trainer"]["enable_progress_bar"] = True
    (tmp_path / "bar.yaml").write_text(yaml.safe_dump(config))
    arguments = [f"--data.init_args.path={folder}", "--data.init_args.size=8", f"--out={tmp_path / 'out'}"]
    cli.main(["predict", "-c", str(tmp_path / "bar.yaml"), *arguments, "--data.init_args.batch_size=5"])
    steps = [entry for entry in seen if "step" in entry[0]]
    assert steps[:2] == [("Predicting · step 1/2", 0.0), ("Predicting · step 2/2", 0.5)]
