"""Typed schema of records: one frozen dataclass per kind of evaluation, one row per image and evaluator.

A row is a line of JSON with the fields of its dataclass; fields at their default are left out. Every key, with type and
unit, is listed in ``common/records/README.md``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Literal, NamedTuple

from common.checks.settings import check_count, check_number, check_optional
from common.numerics.finding import Finding
from common.records.consistency import check_record
from common.records.fields import LARGEST_INTEGER, check_fields

ABSTAIN = -1  # the prediction of a certifier that names no class
LONGEST_NAME = 1000  # characters of an evaluator: figures and tables of a longer one take minutes
Knowledge = Literal["model", "noise"]  # of the attacker, see ``Attacked``
Rule = Literal["single", "majority", "mean_logit"]  # of a decision over the defence's draws


class Kind(str, Enum):
    """Kind of evaluation that a row belongs to; decides the row's dataclass."""

    CLEAN = "clean"
    ATTACKED = "attacked"
    CERTIFIED = "certified"
    FORECAST = "forecast"
    CLAIMED = "claimed"
    GRADIENT_CHECK = "gradient_check"


class Role(str, Enum):
    """Role of an evaluation in a run: a result of the defence, or a comparison that only the masking checks use."""

    RESULT = "result"
    VARIANT = "variant"  # the attack with one setting changed
    HUGE_BUDGET = "huge_budget"  # the attack with a budget that reaches a grey image from everywhere
    BASELINE = "baseline"  # the attack on another classifier
    WORST_CASE = "worst_case"  # derived: per image the strongest of several attacks; never written


class Source(NamedTuple):
    """Identity of an evaluation within a run."""

    evaluator: str
    seed: int = 0
    role: Role = Role.RESULT

    @classmethod
    def described(cls, part: Mapping[str, Any]) -> "Source":
        """Identity of an evaluation by its evaluator's description in a header."""
        seed = part.get("seed")
        return cls(str(part.get("name", "")), seed if isinstance(seed, int) else 0, Role(part.get("role", Role.RESULT)))

    @property
    def title(self) -> str:
        """Name to show: the evaluator's, with a seed other than 0: ``"pgd (seed 1)"``."""
        return f"{self.evaluator} (seed {self.seed})" if self.seed else self.evaluator


@dataclass(frozen=True)
class Cost:
    """Cost of an image: network ``evaluations``, ``seconds``, and ``peak_bytes`` of memory; None where unknown."""

    evaluations: float | None = None
    seconds: float | None = None
    peak_bytes: int | None = None

    def __post_init__(self) -> None:
        bounds = {"at_least": 0, "at_most": LARGEST_INTEGER}
        check_optional(check_number, "evaluations", self.evaluations, **bounds)
        check_optional(check_number, "seconds", self.seconds, **bounds)
        check_optional(check_count, "peak_bytes", self.peak_bytes, **bounds)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Fields of every row: which evaluation, which image.

    ``index`` is the image's index in the data set, ``label`` its class. Floats are rounded to six significant digits,
    so that a row is equal before and after it went through a file. ``cost`` is no result: it takes no part in equality
    and is left out of the merged file. Raises ``ValueError`` for a field of another type, NaN and infinity, and for
    values that contradict each other (``common.records.consistency``).
    """

    kind: ClassVar[Kind]
    evaluator: str
    index: int
    label: int
    seed: int = 0
    role: Role = Role.RESULT
    cost: Cost | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.evaluator:
            raise ValueError("a record's evaluator must be a non-empty name; got ''")
        if len(self.evaluator) > LONGEST_NAME:
            raise ValueError(
                f"a record's evaluator must have at most {LONGEST_NAME} characters; got {len(self.evaluator)}"
            )
        check_record(self)

    @property
    def source(self) -> Source:
        """The evaluation that the row belongs to."""
        return Source(self.evaluator, self.seed, self.role)

    @property
    def key(self) -> tuple[str, int, Role, int]:
        """(evaluator, seed, role, index): one row each."""
        return self.evaluator, self.seed, self.role, self.index


@dataclass(frozen=True, kw_only=True)
class PredictionRecord(Record):
    """Predicted class of each of N decisions on one image."""

    predictions: list[int]

    @property
    def correct(self) -> list[bool]:
        """Correctness of each decision."""
        return [prediction == self.label for prediction in self.predictions]


@dataclass(frozen=True, kw_only=True)
class CleanRecord(PredictionRecord):
    """Decisions on the clean image."""

    kind = Kind.CLEAN


@dataclass(frozen=True, kw_only=True)
class AttackedRecord(PredictionRecord):
    """Decisions on the attacked image, beside matched controls, the protocol, and what the attack reported.

    - ``clean_predictions``, ``random_predictions``: as many decisions on the clean image, and on a random perturbation
      of the same size.
    - ``distance``: of the attacked image in the threat's ``norm``, in its unit (pixels for Lp); ``eps``: the budget.
    - ``knows``, ``resubmissions``, ``rule``, ``votes``: the protocol, see ``Attacked``.
    - ``queries``, ``curve``, ``broken``, ``dead``: reported by the attack, see ``AttackResult``; None if not reported.
    - ``zero_gradient``, ``probabilities``, ``repeatable``: signs of masking, of white-box attacks.
    - ``images``: PNG in base64 by view, for the first images.
    - ``baseline``: the attacked classifier where it is not the defence. ``verified``: False where the gradient check
      failed and the test went on.
    """

    kind = Kind.ATTACKED
    clean_predictions: list[int]
    random_predictions: list[int] = field(default_factory=list)
    distance: float
    norm: str
    eps: float
    within_budget: bool = True
    white_box: bool = True
    knows: Knowledge = "model"
    resubmissions: int = 1
    rule: Rule = "single"
    votes: int = 1
    queries: int | None = None
    curve: list[float] | None = None
    broken: bool | None = None
    dead: float | None = None
    zero_gradient: bool | None = None
    probabilities: bool | None = None
    repeatable: bool | None = None
    images: dict[str, str] = field(default_factory=dict)
    baseline: str | None = None
    verified: bool | None = None


@dataclass(frozen=True, kw_only=True)
class CertifiedRecord(Record):
    """Certificate of one image: no perturbation shorter than ``radius`` (L2, pixels) changes ``prediction``.

    ``radius_linf`` = radius / sqrt(D) is implied in L-inf. ``count`` of ``samples`` agreed, hence ``p_lower``.
    """

    kind = Kind.CERTIFIED
    prediction: int
    radius: float
    radius_linf: float
    p_lower: float
    samples: int
    count: int = 0

    @property
    def correct(self) -> bool:
        """Right class, not abstained."""
        return self.prediction == self.label


@dataclass(frozen=True, kw_only=True)
class ForecastRecord(CertifiedRecord):
    """Predicted verdict of a fixed-n procedure from a prefix of its samples: for studies of cost, no certificate.

    ``procedure``: samples that the procedure draws; ``evaluations``: network evaluations that it takes, if known;
    ``undecided``: target radii whose verdict the prefix leaves open.
    """

    kind = Kind.FORECAST
    procedure: int
    undecided: list[float] = field(default_factory=list)
    evaluations: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClaimedRecord(CertifiedRecord):
    """Radius by a published formula that is no bound: for comparison, nothing is certified by it."""

    kind = Kind.CLAIMED


@dataclass(frozen=True, kw_only=True)
class GradientCheckRecord(Record):
    """Findings of the gradient check at one image; ``verified`` if none failed."""

    kind = Kind.GRADIENT_CHECK
    verified: bool
    findings: list[Finding]


KINDS: dict[str, type[Record]] = {
    record.kind.value: record
    for record in (
        CleanRecord,
        AttackedRecord,
        CertifiedRecord,
        ForecastRecord,
        ClaimedRecord,
        GradientCheckRecord,
    )
}
"""The dataclass of each kind."""
