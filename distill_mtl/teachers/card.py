"""What is known of a teacher without its network: all that a run is built from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.weights import STUDENT, RecordedScore
from distill_mtl.teachers.label_map import LabelMap


@dataclass(frozen=True)
class TeacherCard:
    """One teacher of one task.

    Attributes:
        place: the folder or file that the recipe names.
        files: what decides its answers and the sha256 of each, weights first.
        kind: of the task.
        labels: how its outputs stand for the task's classes.
        inputs: what its network wants to see.
        assumed: keys of `inputs` that were assumed.
        layers: names of the hidden features it gives, each once.
        last_map: name of the default hint layer; None where the network gives its answer alone.
        shapes: of `layers`.
        code: which callable of the user's own makes the network, and with what; empty for files.
        fingerprint: changes with everything that changes an answer (`teacher_fingerprint`).
        score: what its folder records about its quality, if anything.
        form: what it was read from, such as "an ONNX file".
        program: what of it is code that was run; None where it is data alone.
        told: what its files contain: keys of `inputs`, `kind`, `classes`.
        trunk: what `student` would say in a recipe to get the same trunk; None where it is not known.
        options: of the kind, those that decide what the outputs stand for.
    """

    place: Path
    files: dict[Path, str]
    kind: str
    labels: LabelMap
    inputs: InputContract
    assumed: tuple[str, ...]
    layers: tuple[str, ...]
    last_map: str | None
    shapes: dict[str, FeatureShape]
    code: str = ""
    fingerprint: str = ""
    score: RecordedScore | None = None
    form: str = ""
    program: str | None = None
    told: tuple[str, ...] = ()
    trunk: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the task, in the order of the teacher's logits."""
        return self.labels.classes

    @property
    def known(self) -> tuple[int, ...] | None:
        """Positions of the classes that the teacher knows; None: all."""
        return self.labels.known

    @property
    def alone_classes(self) -> tuple[str, ...]:
        """Those of the task's classes that the teacher knows."""
        return self.labels.alone().classes

    @property
    def name(self) -> str:
        """A few letters for tables: of its place, which for the student of a run is the run's."""
        is_student = self.place.name == STUDENT and self.place.parent.name
        return f"{self.place.parent.name}/{STUDENT}" if is_student else self.place.name

    @property
    def file(self) -> Path:
        """The weights."""
        return next(iter(self.files))

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return self.files[self.file]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, from which `from_dict` makes the same card."""
        return {
            **asdict(self),
            "place": str(self.place),
            "files": [[str(path), digest] for path, digest in self.files.items()],
            "inputs": self.inputs.to_dict(),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "TeacherCard":
        """The inverse of `to_dict`. Raises ValueError, TypeError or KeyError for anything else."""
        labels, score = entry["labels"], entry["score"]
        known = labels["known"]
        return cls(
            **{
                **entry,
                "place": Path(entry["place"]),
                "files": {Path(path): digest for path, digest in entry["files"]},
                "labels": LabelMap(
                    tuple(labels["classes"]),
                    tuple(labels["outputs"]),
                    None if known is None else tuple(known),
                    labels["width"],
                    labels["rest"],
                ),
                "inputs": InputContract.from_dict(entry["inputs"]),
                "assumed": tuple(entry["assumed"]),
                "layers": tuple(entry["layers"]),
                "told": tuple(entry["told"]),
                "shapes": {name: FeatureShape.from_dict(shape) for name, shape in entry["shapes"].items()},
                "score": None if score is None else RecordedScore(**score),
            }
        )

    def describe(self) -> dict[str, Any]:
        """The loaded files and contracts, for teachers.json."""
        return {
            "file": str(self.file.resolve()),
            "sha256": self.sha256,
            "files": {str(path.resolve()): digest for path, digest in self.files.items()},
            "classes": list(self.classes),
            "outputs": list(self.labels.outputs),
            "input": self.inputs.to_dict(),
        }
