"""What networks cost, as results.json has it; `evaluation/cost.py` measures it."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_PART = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_PART)
class Cost:
    """The cost of one image for a network, or for several together.

    Attributes:
        parameters: numbers that were learned; None: not known of a network that comes as a program.
        flops: of one forward pass; a multiplication and an addition count as two. None: another runtime than
            torch runs it, and it is not counted.
        bytes: of the weights in float32, as a file of them takes; None: not known.
        latency_ms: median time of one forward pass of one image.
        batch: rows of a batch that saturates, for what follows.
        rows_per_second: of such batches; None: not measured.
        peak_memory: bytes of the weights and of the most that a pass of such a batch takes beside them, the batch
            left out; None: it cannot be had here.
    """

    parameters: int | None
    flops: int | None
    bytes: int | None
    latency_ms: float
    batch: int = 1
    rows_per_second: float | None = None
    peak_memory: int | None = None

    def __add__(self, other: "Cost") -> "Cost":
        """Of both on every row, one after the other: all weights stay in memory, working memory is used again."""
        mine, theirs = self._working, other._working
        stored = _sum(self.bytes, other.bytes)
        rate = None
        if self.rows_per_second and other.rows_per_second:
            rate = 1 / (1 / self.rows_per_second + 1 / other.rows_per_second)
        return Cost(
            _sum(self.parameters, other.parameters),
            _sum(self.flops, other.flops),
            _sum(self.bytes, other.bytes),
            self.latency_ms + other.latency_ms,
            max(self.batch, other.batch),
            rate,
            None if mine is None or theirs is None or stored is None else stored + max(mine, theirs),
        )

    @property
    def _working(self) -> int | None:
        """Bytes beside the weights."""
        if self.peak_memory is None or self.bytes is None:
            return None
        return max(0, self.peak_memory - self.bytes)


@dataclass(frozen=True, config=_PART)
class HeadCost:
    """The share of one task's head in its student, or of all heads together.

    Attributes:
        parameters: of the head alone.
        flops: of its part of a forward pass of one image, its trunk's left out.
        parameters_share, flops_share: of the whole student's, in [0, 1]; None where that is not known.
    """

    parameters: int
    flops: int
    parameters_share: float | None
    flops_share: float | None

    @classmethod
    def of(cls, parameters: int, flops: int, student: Cost) -> "HeadCost":
        """With its shares of the student's cost."""
        return cls(
            parameters,
            flops,
            parameters / student.parameters if student.parameters else None,
            flops / student.flops if student.flops else None,
        )


@dataclass(frozen=True, config=_PART)
class NodeCost(HeadCost):
    """The share of one part of a student's trunk that some of its tasks run through.

    Attributes:
        tasks: that run through it.
        parent: the part that it reads; None: it reads the image.
        begins: its first stage.
        latency_ms: of one image through this part alone; None: not measured.
    """

    tasks: list[str] = Field(default_factory=list)
    parent: str | None = None
    begins: str = ""
    latency_ms: float | None = None


BUSY = ", busy with other work: measure again when it is quiet"
"""What ends the description of a machine whose times jump."""


@dataclass(frozen=True, kw_only=True, config=_PART)
class Costs:
    """The cost of a student and of the teachers that it replaces, measured on one machine in one go.

    Attributes:
        student: the whole.
        teachers: all together, one after the other; None where there is none.
        each: by task, its teacher alone.
        heads: by task, what its head takes of the student; empty where the student does not show its heads.
        nodes: by name, what each part of the trunk takes, parents first; empty where all tasks share the trunk.
        machine: a description, also whether it was busy; None: unknown.
    """

    student: Cost
    teachers: Cost | None
    each: dict[str, Cost] = Field(default_factory=dict)
    heads: dict[str, HeadCost] = Field(default_factory=dict)
    nodes: dict[str, NodeCost] = Field(default_factory=dict)
    machine: str | None = None

    @property
    def steady(self) -> bool:
        """Whether times can be compared: the machine did no other work."""
        return not (self.machine or "").endswith(BUSY)


def _sum(one: int | None, other: int | None) -> int | None:
    """The sum; None if a part is unknown."""
    return None if one is None or other is None else one + other
