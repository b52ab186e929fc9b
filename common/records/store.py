"""One JSON row per image and evaluator: append, resume, merge, summarise with exact intervals.

A run writes into a directory. Every process start opens a part file of its own,
``part-<rank>-<process>-<random>.jsonl``: ranks never share one, and a resumed run never writes behind a line that a
kill tore in two. All tables and figures are functions of these rows.
"""

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from scipy.stats import beta

from common.records.rows import ABSTAIN, MERGED, Header, Record, header_line, load, merge, record_line

__all__ = ["Header", "Record", "Records", "Summary", "interval", "summarise", "worst_case"]

RADIUS_STEP = 0.25  # grid of radii, in pixel units, as the literature's tables have it


class Records:
    """The rows of one run, in one directory; every process opens it once.

    ``fingerprint`` stands for all that a row depends on; a directory with rows of another one is refused, and
    ``config``, which the header keeps for people and for the report, says what differs. Opening writes the header at
    once, so that a path which cannot be written is found before any work.

    Raises ``ValueError`` when the path is a file or cannot be written, when a file in it holds rows of another
    fingerprint, and when a line is damaged. A torn last line is what a kill leaves: it is skipped.
    """

    def __init__(
        self, path: str | Path, fingerprint: str, config: Mapping[str, Any] | None = None, rank: int = 0
    ) -> None:
        self.path = Path(path)
        self.header = Header(fingerprint, json.loads(json.dumps(dict(config or {}), default=str)))
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"records go to a directory, but {self.path} is a file. Name another path.")
        self._keys = {record.key for record in self.all()}
        self._part = self.path / f"part-{rank:05d}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._empty = True
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("xb")
            self._write([header_line(self.header)])
        except OSError as error:
            raise ValueError(
                f"cannot write records to {self.path} ({error}). Make it writable or name another path."
            ) from error

    def append(self, records: Sequence[Record]) -> None:
        """Adds rows; they are on the disk (flush and fsync) when this returns."""
        self._write([record_line(record) for record in records])
        self._keys.update(record.key for record in records)
        self._empty = self._empty and not records

    def done(self, evaluator: str) -> set[int]:
        """Indices with a row of this evaluator: those found on opening, and those this process appended since."""
        return {index for name, index in self._keys if name == evaluator}

    def all(self) -> list[Record]:
        """Every row that any process has written so far, merged and sorted by (evaluator, index)."""
        return merge(load(self.path, self.header)[1])

    def merge(self) -> Path:
        """Writes all rows to ``records.jsonl`` in one piece; the parts stay. For one rank, behind a barrier."""
        target, draft = self.path / MERGED, self.path / f".{MERGED}.{uuid.uuid4().hex[:8]}"
        with draft.open("wb") as file:
            file.write(header_line(self.header))
            file.writelines(record_line(record, cost=False) for record in self.all())
            file.flush()
            os.fsync(file.fileno())
        return draft.replace(target)

    def close(self) -> None:
        """Closes this process's part, and removes it when it holds no row."""
        self._file.close()
        if self._empty:
            self._part.unlink(missing_ok=True)

    @staticmethod
    def read(path: str | Path) -> list[Record]:
        """Rows of a directory, or of one records file, merged and sorted by (evaluator, index)."""
        return merge(load(Path(path))[1])

    @staticmethod
    def describe(path: str | Path) -> Header:
        """Header of a directory, or of one records file."""
        return load(Path(path))[0]

    def _write(self, lines: Sequence[bytes]) -> None:
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())


@dataclass(frozen=True)
class Summary:
    """What ``n`` images say about one evaluator: ``metrics[name] = (value, low, high)``, exact 95 % intervals.

    Accuracies (K draws per image):

    - ``Avg``: share of correct draws; the accuracy of a single query.
    - ``first draw``: share of images whose first draw is correct (only if K > 1).
    - ``Wor@K``: share of images with all K draws correct (only if K > 1); what an attacker who may ask K times leaves.
    - ``MV@K``: share of images whose most frequent prediction is correct, ties to the lowest class (only if K > 1).
    - ``clean Avg``, ``clean Wor@K``, ``clean MV@K``: the same of the unattacked images, asked as often.

    Certificates: ``certified@r``, share of images with the right class and a certified radius >= r (pixels, L2);
    ``abstained``; and ``samples``, whose triple is mean, smallest and largest.
    """

    evaluator: str
    n: int
    metrics: dict[str, tuple[float, float, float]]


def interval(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a proportion, also for a real number of ``successes``.

    With k successes among n images and 1 - level = a: the a/2 quantile of Beta(k, n-k+1) and the 1 - a/2 quantile of
    Beta(k+1, n-k); 0 below at k = 0, 1 above at k = n.

    Draws of one image are not independent, images are. An average over draws is therefore a mean of n independent
    numbers m in [0,1], one per image, and k = n * mean is real. Their variance is at most mean (1 - mean), the
    binomial one, with equality when the draws of each image agree; so the binomial interval is, if anything, too
    wide. It stays sensible at 0 % and 100 %, where Student's collapses, and for one draw per image it is exact.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"an interval needs 0 <= successes <= n and n >= 1; got {successes} of {n}")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def summarise(records: Iterable[Record]) -> list[Summary]:
    """One `Summary` per evaluator, in alphabetical order. Raises ``ValueError`` for rows of an unknown kind."""
    groups = groupby(sorted(records, key=lambda record: record.key), key=lambda record: record.evaluator)
    return [_summary(name, list(rows)) for name, rows in groups]


def worst_case(records: Iterable[Record]) -> list[Record]:
    """Per image the stronger of several attacks within one budget, as records of an evaluator ``worst of A, B``.

    A defence is worth what it withstands of all attacks, not of each. To take the attack with the fewest right draws
    would count its luck as strength, so it is chosen on one half of the draws and scored on the other, and the reverse;
    a single draw is taken as it is. Ties go to the attack that is the stronger one over all images. Where that alone
    leaves less accuracy than the choice per image, it is the worst case: no row of this kind lies above its attacks.

    Attacks are compared that share norm, eps, rule of decision and knowledge of the noise, on the images that those of
    them attacked that attacked most; one that was shown fewer images is left out.
    """
    attacked = [record for record in records if {"predictions", "norm", "eps"} <= record.values.keys()]
    derived = []
    for _, group in groupby(sorted(attacked, key=_protocol), key=_protocol):
        runs: dict[str, dict[int, Record]] = {}
        for row in group:
            runs.setdefault(row.evaluator, {})[row.index] = row
        most = max(map(len, runs.values()))
        runs = {name: rows for name, rows in sorted(runs.items()) if len(rows) == most}
        common = sorted(set.intersection(*(set(rows) for rows in runs.values())))
        if len(runs) < 2 or not common:
            continue
        names = sorted(runs, key=lambda name: sum(_right(runs[name][i]) for i in common))  # the strongest first
        several = ", ".join(sorted(names)) if len(names) < 4 else f"{len(names)} attacks"
        rows = [[runs[name][i] for name in names] for i in common]
        worst = [_stronger([row.values["predictions"] for row in same], same[0].label) for same in rows]
        alone = [same[0].values["predictions"] for same in rows]
        labels = [same[0].label for same in rows]
        if _accuracy(worst, labels) > _accuracy(alone, labels):
            worst = alone
        for same, predictions in zip(rows, worst, strict=True):
            values = {**same[0].values, "predictions": predictions, "white_box": False}
            derived.append(Record(f"worst of {several}", same[0].index, same[0].label, values))
    return derived


def _protocol(record: Record) -> tuple[str, float, str, int, str]:
    """What attacks must share to be compared as attacks on one defence."""
    values = record.values
    decision = str(values.get("rule", "single")), int(values.get("votes", 1)), str(values.get("knows", "model"))
    return str(values["norm"]), float(values["eps"]), *decision


def _right(record: Record) -> float:
    """Share of right draws."""
    return _accuracy([record.values["predictions"]], [record.label])


def _accuracy(predictions: Sequence[Sequence[int]], labels: Sequence[int]) -> float:
    """Mean over images of the share of right draws."""
    shares = [sum(p == y for p in draws) / len(draws) for draws, y in zip(predictions, labels, strict=True)]
    return sum(shares) / len(shares)


def _stronger(attacks: list[list[int]], label: int) -> list[int]:
    """(attacks, draws) predictions -> the cross-fitted worst's; ties go to the first attack."""
    draws = min(map(len, attacks))
    halves = [range(0, draws, 2), range(1, draws, 2)] if draws > 1 else [range(1), range(1)]
    worst = list(attacks[0][:draws])
    for chosen, scored in (halves, halves[::-1]):
        best = min(attacks, key=lambda guesses: sum(guesses[draw] == label for draw in chosen))
        for draw in scored:
            worst[draw] = best[draw]
    return worst


def _summary(evaluator: str, rows: list[Record]) -> Summary:
    if all("radius" in row.values for row in rows):
        return Summary(evaluator, len(rows), _certified(rows))
    if not all("predictions" in row.values for row in rows):
        raise ValueError(f"records of {evaluator!r} hold neither predictions nor certificates; nothing to summarise")
    metrics = _accuracies([row.values["predictions"] for row in rows], rows)
    if all("clean_predictions" in row.values for row in rows):
        clean = _accuracies([row.values["clean_predictions"] for row in rows], rows)
        metrics |= {f"clean {name}": value for name, value in clean.items() if name != "first draw"}
    return Summary(evaluator, len(rows), metrics)


def _accuracies(predictions: list[list[int]], rows: list[Record]) -> dict[str, tuple[float, float, float]]:
    draws = len(predictions[0])
    if not draws or any(len(row) != draws for row in predictions):
        counts = sorted({len(row) for row in predictions})
        raise ValueError(f"records of {rows[0].evaluator!r} must have equally many draws, at least one; got {counts}")
    correct = [[guess == row.label for guess in guesses] for guesses, row in zip(predictions, rows, strict=True)]
    metrics = {"Avg": _share(sum(map(sum, correct)) / draws, len(rows))}
    if draws > 1:
        majority = [max(sorted(set(guesses)), key=guesses.count) for guesses in predictions]
        metrics["first draw"] = _share(sum(draw[0] for draw in correct), len(rows))
        metrics[f"Wor@{draws}"] = _share(sum(map(all, correct)), len(rows))
        votes = sum(vote == row.label for vote, row in zip(majority, rows, strict=True))
        metrics[f"MV@{draws}"] = _share(votes, len(rows))
    return metrics


def _certified(rows: list[Record]) -> dict[str, tuple[float, float, float]]:
    metrics = {f"certified@{r:g}": certified_share(rows, r) for r in radius_grid(rows)}
    metrics["abstained"] = _share(sum(row.values["prediction"] == ABSTAIN for row in rows), len(rows))
    samples = [row.values["samples"] for row in rows]
    metrics["samples"] = (sum(samples) / len(samples), min(samples), max(samples))
    return metrics


def certified_share(rows: Sequence[Record], radius: float) -> tuple[float, float, float]:
    """Certified accuracy at a radius (pixels, L2) with its interval."""
    return _share(sum(is_certified(row, radius) for row in rows), len(rows))


def is_certified(row: Record, radius: float) -> bool:
    """Whether a sound certificate names the right class, so it did not abstain, and reaches the radius (pixels, L2)."""
    right = row.values.get("sound", True) and row.values["prediction"] == row.label
    return bool(right and row.values["radius"] >= radius)


def radius_grid(rows: Sequence[Record]) -> list[float]:
    """0, 0.25, 0.5 … up to the largest radius found, and at least to 1."""
    largest = max(1.0, *(row.values["radius"] for row in rows))
    return [RADIUS_STEP * step for step in range(int(largest / RADIUS_STEP) + 1)]


def _share(successes: float, n: int) -> tuple[float, float, float]:
    return successes / n, *interval(successes, n)
