"""Runs of certificates with known numbers."""

from common.records.schema import CertifiedRecord, Cost, ForecastRecord
from common.records.store import Records
from common.report.runs import read_runs
from tests.common.records.made import certified_record

TARGETS = [0.25, 0.5]
FORECAST = [  # radius, prediction, undecided targets
    (0.5, 1, []), (0.25, 1, [0.5]), (0.25, 1, []), (0.0, -1, [0.25]),
]  # fmt: skip
SPENT = [(0.61, 1, 100), (0.3, 1, 400), (0.1, 1, 60), (0.0, -1, 0)]  # radius, prediction, samples


def write(path, rows, costs, start=0, name="curve", data="both", **smoothing):
    """Records of one certifier, images ``start`` .. of class 1, and ``costs`` in network evaluations."""
    smoothing = {"sigma": 0.25, "n0": 32, "n": 1000, "alpha": 0.001, **smoothing}
    part = {"class": "x.Certified", "name": name, "smoothing": smoothing}
    records = Records(path, "fingerprint", {"classifier": {"class": "x"}, "evaluators": [part], "data": {"of": data}})
    pairs = enumerate(zip(rows, costs, strict=True), start)
    records.append([certified_record(i, **row, evaluator=name, cost=Cost(evaluations=c)) for i, (row, c) in pairs])
    return path


def values(radius, prediction, samples, **more):
    kind = ForecastRecord if "procedure" in more else CertifiedRecord
    radii = {"radius": radius, "radius_linf": radius / 8}
    return {"prediction": prediction, **radii, "samples": samples, "kind": kind, **more}


def three_runs(folder):
    """A forecast of a fixed-n procedure, a fast certifier of the same targets, and a fixed-n one without targets."""
    forecast = {"samples": 10, "procedure": 1032, "evaluations": 100_000}
    published = [values(radius, c, **forecast, undecided=undecided) for radius, c, undecided in FORECAST]
    fast = [values(*row) for row in SPENT]
    bound = [values(0.4, 1, 1000), values(0.7, 1, 1000), values(0.1, 2, 1000), values(0.0, -1, 1000)]
    paths = [
        write(folder / "published", published, [7.0] * 4, targets=TARGETS),
        write(folder / "fast", fast, [1000, 3000, 900, 100], targets=TARGETS),
        write(folder / "fixed", bound, [5000] * 4, n0=100),
    ]
    return read_runs(paths)
