"""The long form of a recipe, with every default: what `load_recipe` returns and a run is made from.

A user may also write the short forms of `long_form.py`; they are expanded before this model sees them.
`distill-mtl schema` prints both forms for editors, with the docstrings of keys as their descriptions.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Rows = Annotated[int, Field(gt=0, le=2**20)]
Side = Annotated[int, Field(gt=0, le=8192)]
Classes = Annotated[int, Field(gt=0, le=1_000_000)]
Steps = Annotated[int, Field(gt=0, le=10**9)]
Rate = Annotated[float, Field(gt=0, le=1000)]
Weight = Annotated[float, Field(ge=0, le=10**6)]
Temperature = Annotated[float, Field(ge=1e-6, le=10**6)]
Scale = Annotated[float, Field(ge=1e-6, le=10**6)]
Number = Annotated[float, Field(ge=-(10**6), le=10**6)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
Shift = Annotated[float, Field(gt=0, le=0.5)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,99}$")]

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
STORE_SIZE = rf"^\d{{1,6}}(\.\d{{1,3}})? ?({'|'.join(_UNITS)})$"
"""Of bytes, as people write them: 50GB, 1.5 TB."""
StoreSize = Annotated[str, Field(pattern=STORE_SIZE)]

DEFAULT_EPOCHS = 30
WIDEST, DEEPEST = 2**16, 100
"""Of a task's head."""
INITS = ("pretrained", "random", "zip", "teachers")
"""Values of `student.init` that are neither a path nor a task's teacher."""


def bytes_of(size: str) -> int:
    """The bytes of a `StoreSize`."""
    unit = next(unit for unit in _UNITS if size.endswith(unit))
    return int(float(size.removesuffix(unit)) * _UNITS[unit])


class Section(BaseModel):
    """A mapping of the recipe: unknown keys are errors, nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class AutoBranches(Section):
    """How the tree of tasks is found from the teachers."""

    budget: Annotated[float, Field(ge=1)] = 1.5
    """The largest tree, in FLOPs of one trunk."""
    by: Literal["floor", "rsa", "cka", "hard_rows", "probe"] = "floor"
    """What says which tasks may share a stage: see docs/students.md."""
    rows: Annotated[int, Field(ge=20, le=100_000)] = 600
    """Training rows that the teachers are compared on."""


class AutoBranchSection(Section):
    """The tree of tasks is found from the teachers, before training."""

    auto: AutoBranches
    """How it is found."""


SHAPES = ("branch", "private", "encoders", "columns", "order")
"""Keys of `student` that say its shape; at most one is there. Each is a file in `students/shapes/`."""

Stages = Literal["all"] | Annotated[list[str], Field(min_length=1)]
"""Names of stages, or all."""


class PrivateSection(Section):
    """What each task has for itself in a trunk whose other weights are common."""

    norms: Stages | None = None
    """Stages whose normalisation layers each task has for itself, a list, or all."""
    adapters: Stages | None = None
    """Stages in which each task has 1x1 convolutions at those larger than 1x1, a list, or all."""
    kind: Literal["series", "parallel"] = "parallel"
    """Where adapters stand: behind the convolution, or beside it."""


Groups = Annotated[dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=2)]
"""Name of a group -> its tasks."""


class EncodersSection(Section):
    """Own first stages for groups of tasks."""

    groups: Groups
    """Name of each encoder and its tasks: {xray: [chest], photo: [skin, eye]}."""
    until: str | None = None
    """The first stage of the common trunk. Default: the one behind the stem."""


ColumnKind = Literal["cross_stitch", "sluice", "nddr", "progressive"]
EachWeight = Literal["channel", "column"]


class ColumnsSection(Section):
    """A network for each task, joined with the others behind stages. In short form only the kind."""

    kind: ColumnKind
    """cross_stitch, sluice and nddr: columns that are mixed | progressive: a new column beside the student in `init`,
    whose tasks keep their answers to the bit."""
    after: Annotated[list[str], Field(min_length=1)] | None = None
    """Stages behind which columns are joined. Default: behind every stage, up to six of them."""
    own: Share = 0.9
    """First weight of a column on itself; the others share the rest."""
    each: EachWeight = "channel"
    """Of cross_stitch: a weight for each channel, or one for a whole column."""
    subspaces: Annotated[int, Field(ge=2, le=1024)] = 2
    """Of sluice: equal parts of the channels, each with its own weights."""


class StudentLayersSection(Section):
    """What is read of a student of your own code."""

    maps: Annotated[list[str], Field(min_length=1)] | None = None
    """Layers whose maps heads and hints read, in the order they run. Default: the last of every size."""
    pooled: str | None = None
    """Layer that gives the vector, or a map or tokens whose mean it is. Default: what goes into the last layer."""


class StudentInputSection(Section):
    """What a student of your own code wants to see; its size is `input_size`."""

    mean: list[Number] | None = None
    """Per channel, in the network's own order, in units of `white`."""
    std: Annotated[list[Scale], Field(min_length=1)] | None = None
    """Per channel, in the network's own order, in units of `white`."""
    white: Scale | None = None
    """What a white pixel is before mean and std: 1, or 255."""
    channels: Literal["rgb", "bgr", "grey", "grey3"] | None = None
    """Order of the colours, a single channel of luma, or luma in all three."""


class StudentSection(Section):
    """The network that is trained. In short form only its timm name."""

    model: str | None = None
    """timm architecture, with or without a pretrained tag: resnet18.a1_in1k. Default: that of the student in
    `init`."""
    module: str | None = None
    """Your own network in place of `model`, `package.module:callable`; needs `trust: true`."""
    args: dict[str, Any] = {}
    """Keyword arguments for timm.create_model, or the callable of `module`. Default: those of the student in
    `init`."""
    layers: StudentLayersSection = StudentLayersSection()
    """Which layers of `module` are read. Default: found on a trial."""
    input: StudentInputSection = StudentInputSection()
    """What `module` wants to see: mean, std, white, channels. Default: what it says itself, else ImageNet's."""
    trust: bool = False
    """Let the code of `module` run, or that of the student in `init`."""
    input_size: Side | tuple[Side, Side] | None = None
    """Side, or [height, width], in pixels. Default: that of the student in `init`, else what the architecture
    was made for."""
    init: str = "pretrained"
    """pretrained (timm's weights) | teacher:TASK (its trunk) | a student or run folder (trunk and the heads of
    its tasks) | another folder or .safetensors file (trunk) | zip (the teachers' trunks merged, and their heads) |
    teachers (each column as its task's teacher, and their heads) | random, the default for `module`"""
    branch: (
        Literal["auto"]
        | AutoBranchSection
        | Annotated[dict[str, str | list[list[str]]], Field(min_length=1)]
        | None
    ) = None
    """Where tasks leave the trunk: {task: stage}, the others stay together; or {stage: groups of tasks, or own};
    or auto, also {auto: {budget: 1.5}}: found from the teachers before training. Default: they share all of it."""
    private: PrivateSection | None = None
    """What each task has for itself from a stage on, while all other weights are common: norms, adapters."""
    encoders: EncodersSection | Groups | None = None
    """Own first stages for groups of tasks, a common trunk behind: {xray: [chest], photo: [skin, eye]}."""
    columns: ColumnsSection | None = None
    """A network for each task, joined behind stages: cross_stitch, sluice, nddr; or progressive, a new one beside the
    student in `init`. A kind, or a mapping with `kind`."""
    order: Literal["soft"] | None = None
    """Soft layer ordering: each task mixes the blocks of the trunk in an order of its own."""

    @property
    def architecture(self) -> str | None:
        """Family and name of its network."""
        return self.model if self.module is None else f"module:{self.module}"

    @property
    def family_args(self) -> dict[str, Any]:
        """What the family builds the network with."""
        if self.module is None:
            return self.args
        said = {key: getattr(self, key).model_dump(exclude_none=True) for key in ("layers", "input")}
        return {"args": self.args, **said}

    @property
    def layout(self) -> dict[str, Any]:
        """The shape, by its key; empty for a plain trunk."""
        return {key: getattr(self, key) for key in SHAPES if getattr(self, key) is not None}

    def with_layout(self, layout: Mapping[str, Any]) -> "StudentSection":
        """The same with another shape."""
        return self.model_copy(update={**dict.fromkeys(SHAPES), **layout})


class InputSection(Section):
    """What a teacher wants to see, where its file does not say it or says it wrong."""

    size: Side | tuple[Side, Side] | None = None
    """Side, or [height, width], in pixels."""
    resize: Literal["squash", "crop", "pad"] | None = None
    """How a view of another shape gets this size: stretched, its largest centred part, or letterboxed."""
    pad: Annotated[int, Field(ge=0, le=255)] | None = None
    """What lies beside a letterboxed view, from 0 (black) to 255 (white); YOLO is trained with 114."""
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Side of the centred part that is seen, as a share of the view's: timm's crop_pct."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """How other sizes are brought to `size`, with antialiasing."""
    mean: list[Number] | None = None
    """Per channel, in the network's own order, in units of `white`."""
    std: Annotated[list[Scale], Field(min_length=1)] | None = None
    """Per channel, in the network's own order, in units of `white`."""
    white: Scale | None = None
    """What a white pixel is before mean and std: 1, or 255."""
    channels: Literal["rgb", "bgr", "grey", "grey3"] | None = None
    """Order of the colours, a single channel of luma, or luma in all three."""
    layout: Literal["nchw", "nhwc"] | None = None
    """Where the channels stand."""
    dtype: Literal["float32", "float16", "uint8"] | None = None
    """Type of the pixels."""
    batch: Rows | None = None
    """The only number of rows that the network takes."""


class OutputSection(Section):
    """What a teacher's answers are, where they cannot be found out."""

    name: str | Annotated[int, Field(ge=0)] | None = None
    """Which output answers the task: its name, or its number from 0. Default: the first. Of a folder `pooled` or a
    layer, whose features teach an embedding."""
    gives: Literal["logits", "probabilities", "boxes"] | None = None
    """Default: boxes if the outputs are a known form of them, probabilities if on a trial they are none below 0 and sum
    to 1, else logits."""
    form: str | None = None
    """Of boxes: yolo, yolov5, yolo_nms, detr, torchvision, ssd or scores. Default: found by names and shapes."""
    corners: Literal["xyxy", "yxyx", "cxcywh", "xywh"] | None = None
    """Of boxes, what their four numbers are: two corners, the centre and the sides, or the left upper corner and the
    sides. Default: the form's, or what a trial shows."""
    unit: Literal["pixels", "shares"] | None = None
    """Of boxes: pixels of the network's input, or shares of its sides. Default: what a trial shows."""
    background: Literal["none", "first", "last"] | None = None
    """Of boxes: where the network's classes have one for "nothing". Default: the form's, or as the classes' number
    says."""
    overlap: Share | None = None
    """Of boxes: intersection over union from which the weaker of two boxes of a class is dropped. Default: the form's;
    none where the network drops them itself."""


LIBRARY_KEYS = ("transformers", "torchvision", "smp")
"""Keys of a teacher that name a network which a library builds."""
NETWORK_KEYS = ("path", "timm", "module", *LIBRARY_KEYS)
"""Keys of a teacher of which one names its network."""
NETWORK_KEYS_IN_WORDS = (
    "`path` (a folder or a file), `timm`, `transformers`, `torchvision`, `smp` or `module`"
)


class TeacherSection(Section):
    """A trained network. In short form only its path."""

    path: str | None = None
    """A folder (timm's local-dir form, a student or run of ours, transformers, segmentation-models-pytorch), or a file:
    .onnx, .xml (OpenVINO), .tflite, .pte, .pt2 or .ts; `hf_hub:owner/name`."""
    timm: str | None = None
    """A pretrained network of timm by name: resnet50.a1_in1k"""
    transformers: str | None = None
    """A network of Hugging Face transformers: `owner/name` on the hub, or its folder."""
    torchvision: str | None = None
    """A network of torchvision and the weights that it was trained to or began with: resnet50.IMAGENET1K_V2; or its
    name alone, with `weights`."""
    smp: str | None = None
    """A network of segmentation-models-pytorch: the folder of its `save_pretrained`, or `owner/name` on the hub."""
    module: str | None = None
    """Your own network, `package.module:callable`; needs `weights`."""
    args: dict[str, Any] = {}
    """Keyword arguments for the callable of `module`, or for the network of `torchvision`."""
    weights: str | None = None
    """State dict for `module` or `torchvision`: .safetensors, or what torch.load(weights_only=True) reads."""
    classes: Classes | list[str] | None = None
    """The teacher's own classes, in the order of its outputs. Default: what its file says."""
    task: str | None = None
    """Which task of a multi-task student, a folder or an exported file. Default: the one of the same name."""
    input: InputSection = InputSection()
    """What the network wants to see. Default: what its file says."""
    output: OutputSection = OutputSection()
    """Its output. Default: as its file says."""
    trust: bool = False
    """Let it run code: .pt2, .ts and `module` are programs."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of the weights' file; another file is refused."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """For its targets. auto: bf16 for a large teacher if the check finds it a quarter
    faster on this machine at the same score, else fp32."""
    compile: bool = False
    """Compile it with torch.compile before the first step, for long runs with a large teacher."""
    device: str | None = None
    """Its device, such as cuda:1 or cpu. Default: that of the student."""
    expect: float | None = None
    """The score that the check must reproduce. Default: the one that the folder records."""


class SelfTeacherSection(Section):
    """The student itself as teacher, instead of a network. In short form `self`."""

    student: Literal["frozen", "ema"]
    """A copy that is frozen at intervals, or the average of the student's weights."""
    every: Count | None = None
    """Steps between two freezes; for ema, before the first targets. Default: the beginning of each phase of an
    alternating stream, else a tenth of the run."""
    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of the average. Default: 0.999."""


def is_self_teacher(teacher: Any) -> bool:
    """Whether this, valid or not, is a section about the student itself."""
    if isinstance(teacher, dict):
        return teacher.get("student") is not None
    return isinstance(teacher, SelfTeacherSection)


def teacher_keys(task: str, count: int) -> list[str]:
    """Names of a task's teachers: that of the task, or of several TASK/1, TASK/2 and so on."""
    return [task] if count == 1 else [f"{task}/{number}" for number in range(1, count + 1)]


def task_of(key: str) -> str:
    """The task of the teacher with this name."""
    return key.partition("/")[0]


def teacher_place(key: str) -> str:
    """Where a recipe has the teacher with this name: tasks.breed.teacher, tasks.breed.teacher.0."""
    task, _, number = key.partition("/")
    return f"tasks.{task}.teacher" + (f".{int(number) - 1}" if number else "")


AnyTeacher = Annotated[
    Annotated[TeacherSection, Tag("network")] | Annotated[SelfTeacherSection, Tag("self")],
    Discriminator(lambda teacher: "self" if is_self_teacher(teacher) else "network"),
]


Combine = Literal["mean", "weighted", "surest"]
"""How teachers that know the same classes become one."""


class GateSection(Section):
    """Masks the rows on which the teacher's answer is too uncertain. One of the two keys."""

    entropy: Share | None = None
    """Largest entropy (T = 1) that is not masked, as a share of the entropy of equal probabilities."""
    confidence: Share | None = None
    """Smallest probability of the likeliest class that is not masked."""


class HintSection(Section):
    """One pair of layers: the student's learns to predict the teacher's through an adapter."""

    student: str | None = None
    """Dotted layer name. Default: the trunk's last stage."""
    teacher: str | None = None
    """Dotted layer name. Default: the teacher's last map."""
    form: Literal["auto", "map", "pooled"] = "auto"
    """What is compared: maps pixel by pixel, or the means over their pixels. auto: maps of live teachers, means of
    cached ones."""
    of: Count | None = None
    """Of several teachers the number of the one, from 1. Default: each of them, with an adapter of its own."""


class LabelSection(Section):
    """The labels of one task in a source. In short form only the member."""

    member: str | None = None
    """File ending of the label inside a shard: cls, seg.png. Default: the kind's."""
    knows: Annotated[list[str], Field(min_length=1)] | None = None
    """Classes that these labels tell of; what they do not show of the others is no negative. Default: all."""


class SplitSection(Section):
    """Shards of the other two sets. A set not named is cut from the training shards by a hash of the key."""

    validation: str | list[str] | None = None
    test: str | list[str] | None = None

    @field_validator("validation", "test", mode="before")
    @classmethod
    def _not_a_share(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(
                f"expected the shards of the set: its share cannot be chosen. Leave `{info.field_name}` out, and 5 % "
                "of the training shards' rows are split off; or name shards."
            )
        return value


class AugmentSection(Section):
    """Changes of the picture in training: geometry for student and teachers, colour for the student."""

    crop: Literal["auto"] | Shift | tuple[Share, Share] | None = "auto"
    """[from, to]: a random resized crop, its area as a share of the picture | a number: the picture moves by up to
    this share of its sides, at its own scale | auto: 0.125 for small pictures, else [0.5, 1.0] | null: no crop"""
    flip: Literal["auto"] | bool = "auto"
    """Mirror half of the rows left to right. auto: if teachers answer mirrored pictures as well, and names of classes
    say nothing against it."""
    color: Part = 0.2
    """Strength of brightness, contrast and saturation changes, for the student only."""

    @field_validator("crop")
    @classmethod
    def _some_picture_is_left(cls, crop: Any) -> Any:
        if isinstance(crop, tuple) and not 0 < crop[0] <= crop[1]:
            raise ValueError("expected two shares above 0, the smaller one first, as [0.5, 1.0].")
        return crop


class LimitSection(Section):
    """Use only some of the labels. In short form the number of rows."""

    rows: Count | None = None
    """Training rows that keep their labels; the others become unlabelled."""
    per_class: Count | None = None
    """The same counted by class (needs one class label). Give `rows` or `per_class`."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of the source's rows in a batch that have labels. Default: a quarter, or more if more of its
    rows have labels."""

    @model_validator(mode="after")
    def _one_count(self) -> "LimitSection":
        if (self.rows is None) == (self.per_class is None):
            raise ValueError("expected either `rows` or `per_class`. Give one of the two.")
        return self


class SourceSection(Section):
    """One data set in WebDataset shards. It may carry labels for several tasks, or for none."""

    shards: str | list[str] | None = None
    """Training shards, braces expanded: shards/pets-{000..009}.tar. `multidigits:SET-SPLIT` and
    `scenes:SET-SPLIT` name built-in data, made by code on first use. Without them `split.test` is needed: rows
    that are tested on, and never trained on."""
    image: str = "jpg;jpeg;png;webp"
    """File endings of the image, the first one found wins."""
    labels: dict[str, LabelSection] = {}
    """task: member"""
    weight: Annotated[float, Field(ge=1e-6, le=10**6)] | None = None
    """Share of a batch relative to other sources. Default: the square root of the rows."""
    split: SplitSection = SplitSection()
    """Shards of the validation and test sets."""
    resize: Literal["crop", "pad", "squash"] = "crop"
    """How a picture becomes square: centre crop, letterbox, or stretched."""
    augment: AugmentSection = AugmentSection()
    """Augmentation; null: none."""
    order: Literal["auto", "rows", "windows"] = "auto"
    """Of the training rows. rows: all of them are permuted together; windows: shards are permuted, and the rows of a
    few shards together, for data that one disk or one memory does not hold. auto: windows for shards that are read from
    elsewhere (s3://, https://), else rows."""
    window: Annotated[int, Field(ge=1, le=10**6)] = 4
    """With windows, the shards of each lane whose rows are mixed with each other."""
    class_balance: bool = False
    """Draw every class equally often (needs one class label)."""
    limit: LimitSection | None = None
    """Training rows that keep their labels; validation and test keep all. Default: all rows."""
    corrupt: Literal["stop", "skip"] = "stop"
    """A picture that cannot be decoded ends the run, or is replaced by the next and counted."""
    store: StoreSize | None = None
    """Shards stay in the bucket, and come when their rows are due to a store on the local disk of at most this size:
    50GB. Default: all of them come to the cache before the first step."""

    @property
    def store_bytes(self) -> int | None:
        """The size of the store."""
        return None if self.store is None else bytes_of(self.store)

    @property
    def reads_classes(self) -> bool:
        """Whether the class of every training row is needed before the first step."""
        return self.class_balance or (self.limit is not None and self.limit.per_class is not None)


class HeadSection(Section):
    """The part of the student for one task only."""

    width: Annotated[int, Field(gt=0, le=WIDEST)] | None = None
    """Channels inside. Default: those of the head it begins with; else 24 for maps, and a pooled vector has one
    linear layer."""
    depth: Annotated[int, Field(gt=0, le=DEEPEST)] | None = None
    """Layers inside: 3x3 convolutions for maps, linear layers on a pooled vector. Default: those of the head it
    begins with, else 1."""
    init: Literal["random", "teacher"] | None = None
    """teacher: begin with the teacher's own head, whose shapes must fit. Default: the head that the student in
    `student.init` has for the task, else random."""


class TaskSection(Section):
    """One task: its kind, its teacher, its labels and its loss."""

    kind: str = "classification"
    """classification | multilabel | regression | segmentation | depth | normals | heatmap | embedding, or a class of
    your own: my_tasks:Angle"""
    trust: bool = False
    """Let a kind or loss terms of your own run their code."""
    classes: Classes | list[str] | None = None
    """Number or names. Default: the teacher's."""
    teacher: AnyTeacher | Annotated[list[AnyTeacher], Field(min_length=1)] | None = None
    """The source of targets for rows without this task's label: a trained network, a list of them, or the student
    itself."""
    combine: Combine | list[Weight] | None = None
    """Of several teachers that know the same classes: mean of their answers | weighted, by the scores of the teachers,
    or by the numbers of a list | surest, the answer of the surest one for each row. Default: mean."""
    temperature: Temperature = 4.0
    """Softens the answers of teacher and student before they are compared."""
    teacher_weight: Literal["auto"] | dict[Name, Share] | list[dict[Name, Share]] = "auto"
    """Data set -> weight of the teacher's targets for its rows; 0: the teacher is not asked; not named: 1. Of several
    teachers one mapping for all, or a list of one for each. auto: what training.teachers_on finds, else 1."""
    weights: dict[str, Weight] = {}
    """Weights of the loss's terms: supervised, soft_targets, hint, or a class of your own, my_terms:Margin. Default:
    each term's own."""
    head: HeadSection = HeadSection()
    """Size and initial weights of the task's head."""
    hints: list[HintSection] = [HintSection()]
    """Pairs of layers; an empty list switches hints off for the task."""
    metric: str | None = None
    """The score that is reported. Default: the kind's first."""
    options: dict[str, Any] = {}
    """Options of the kind of task, such as ignore_index."""
    gate: GateSection | None = None
    """Rows on which the teacher's answer is masked; null: none."""

    @property
    def networks(self) -> tuple[TeacherSection, ...]:
        """The trained networks that teach the task, in their order."""
        listed = self.teacher if isinstance(self.teacher, list) else [self.teacher]
        return tuple(teacher for teacher in listed if isinstance(teacher, TeacherSection))

    def with_networks(self, networks: Sequence[TeacherSection]) -> "TaskSection":
        """The same taught by these networks, which stand in a list where they did."""
        teacher = list(networks) if isinstance(self.teacher, list) else next(iter(networks), None)
        return self.model_copy(update={"teacher": teacher})

    @property
    def self_teacher(self) -> SelfTeacherSection | None:
        """The student as it was, if that teaches the task."""
        return self.teacher if isinstance(self.teacher, SelfTeacherSection) else None


class BalanceSection(Section):
    """How the tasks share the trunk. In short form only the method."""

    method: str = "auto"
    """auto (mgda_ub if every row has a label or a teacher for every task, else uniform) | uniform | ..."""
    options: dict[str, Any] = {}
    """Options of the method."""
    harm_every: Count | None = None
    """Measure at every so many steps the share of tasks that the step's gradient would hurt in parameter
    space, for a backward pass per task; null: never."""


Auto = Literal["auto"]


class OptimizerSection(Section):
    """How the weights step, and at which rate. No weight decay on norms and biases."""

    name: Literal["auto", "sgd", "adamw", "muon"] = "auto"
    """sgd: with Nesterov momentum | adamw | muon: for matrices and convolutions inside the trunk, AdamW for the rest |
    auto: adamw where lr is a number; else muon where its steps cost little, adamw elsewhere"""
    lr: Rate | Auto = "auto"
    """Highest rate. auto: found by a range test before the first step."""
    schedule: Literal["auto", "cosine", "one_cycle"] = "auto"
    """cosine: a linear warm-up, then half a cosine down | one_cycle: half a cosine up, half a cosine down |
    auto: one_cycle for sgd, else cosine"""
    momentum: Part | Auto = "auto"
    """Of sgd and muon. auto: 0.9 for sgd, 0.95 for muon."""
    weight_decay: Annotated[float, Field(ge=0, le=1000)] | Auto = "auto"
    """auto: 0.0005 for sgd, else 0.05."""
    betas: tuple[Part, Part] = (0.9, 0.999)
    """Of adamw, and of muon's share of it."""
    warmup: Part | Auto = "auto"
    """Share of the steps in which the rate rises. auto: 0.3 with one_cycle, 0.05 with cosine."""
    min_lr: Share | Auto = "auto"
    """Last rate as a share of lr. auto: 0 with one_cycle, 0.01 with cosine."""
    adapter_lr: Rate | None = None
    """Rate of the hint adapters. Default: lr."""


class AsynchronousSection(Section):
    """Parts that step after their own number of rows, as in UberNet (Kokkinos 2016)."""

    trunk: Count
    """Rows with any loss between two steps of the trunk."""
    heads: Count | dict[Name, Count]
    """Rows of a task between two steps of its head and adapters: one number, or by task."""


class StreamSection(Section):
    """How a batch mixes the data sets. In short form only the mode."""

    mode: Literal["mixed", "alternate"] = "mixed"
    """mixed: rows of all data sets in every batch; alternate: batches of one data set each, in turn."""
    phase: Steps = 1
    """With alternate, the number of steps before the next data set."""
    lanes: Annotated[int, Field(ge=1, le=4096)] = 64
    """Parts that the rows of sources with `order: windows` are dealt to. Processes share them, so their number must
    divide this one; the rows of a step are the same with any that does."""


class TrainingSection(Section):
    """The loop. Give `steps` or `epochs`, not both."""

    @model_validator(mode="before")
    @classmethod
    def _epochs_by_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is None and values.get("epochs") is None:
            return {**values, "epochs": DEFAULT_EPOCHS}
        return values

    steps: Steps | None = None
    """Optimizer steps."""
    epochs: Annotated[float, Field(gt=0, le=10**6)] | None = None
    """All rows / batch_size steps each. Default: 30, where no steps are given."""
    batch_size: Rows = 256
    """Rows per optimizer step over all processes and micro-batches."""
    stream: StreamSection = StreamSection()
    """How the data sets share the steps: a mode, or a mapping with `mode` and `phase`."""
    accumulate: Count = 1
    """Micro-batches per optimizer step."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """auto: bf16 where the GPU has it, else fp32."""
    teachers_on: Literal["auto", "missing", "annealed", "all", "none"] = "auto"
    """Rows with a teacher target: those without a label, all, or none (labels only); annealed: those without a label;
    of a task whose label every row has, all rows, less and less until the tenth epoch. auto: those without a label,
    with less weight the further their data set's pictures lie from the teacher's own; all, where a teacher is not asked
    about a data set at all."""
    clip: Positive | Auto | None = "auto"
    """Largest gradient norm; null: no clipping; auto: none with sgd, else 1."""
    asynchronous: AsynchronousSection | None = None
    """Rows between two steps of trunk and heads; null: all of them step together."""
    ema: Annotated[float, Field(gt=0, lt=1)] | Auto | None = None
    """Decay of averaged weights; auto: an average over the last twentieth of the run; null: no averaging."""
    workers: Annotated[int, Field(ge=0, le=512)] | None = None
    """Reader processes. Default: 0 on the CPU, else up to 8."""
    log_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    trackers: list[str] = []
    """Services that show metrics.jsonl live, by their names in Accelerate: tensorboard, wandb, mlflow, trackio, ..."""
    checkpoint_every: Count = 500
    """Steps between two checkpoints."""
    keep: Count = 2
    """Checkpoints kept."""
    select: Literal["last", "best"] = "last"
    """best: highest mean delta on validation."""


class StageTaskSection(Section):
    """Settings of one task in a stage."""

    weights: dict[str, Weight | None] = {}
    """Weights of its loss's terms. Default: the stage's."""
    temperature: Temperature | None = None
    """Of its soft targets. Default: the stage's."""


class StageSection(Section):
    """One stage of the run."""

    until: Count | Annotated[float, Field(gt=0, le=1)] | None = None
    """Where it ends: a share of the run, or a whole number of steps. The last stage ends with the run."""
    weights: dict[str, Weight | None] = {}
    """Weights of the terms of every task's loss. Default: the tasks' own."""
    temperature: Temperature | None = None
    """Of all soft targets. Default: the tasks' own."""
    tasks: dict[Name, StageTaskSection] = {}
    """Settings of single tasks."""
    train: Annotated[list[str], Field(min_length=1)] | None = None
    """Parts that train: trunk, trunk:LAYER (up to that layer), guided (up to the layers of the hints), heads,
    heads:TASK, adapters. Default: all."""


class TargetsSection(Section):
    """Where the teachers' answers come from while the student trains. In short form only `from`."""

    from_: Literal["auto", "live", "cached"] = Field(default="auto", alias="from")
    """live: teachers run in every step | cached: the cache of `distill-mtl cache` is read | auto: cached if there
    is a valid cache, else live"""
    views: Annotated[int, Field(gt=0, le=10_000)] | None = None
    """Views of each row in turn, the first one plain. Default: live teachers see a fresh view every epoch, cached
    ones saw the plain one."""
    logits: Literal["fp32", "fp16", "int8"] = "fp16"
    """Type of cached logits."""
    top_k: Count | None = None
    """Store only the largest logits of a row and the sum of the others. Default: all."""
    features: Literal["fp16", "int8"] = "fp16"
    """Type of cached hidden features."""

    @property
    def view_count(self) -> int | None:
        """Views of each row; None for a fresh one every epoch."""
        return 1 if self.views is None and self.from_ == "cached" else self.views


class EvaluationSection(Section):
    """The comparison of student and teachers."""

    batch_size: Rows = 256
    """Rows at a time."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Resamples for the 95 % interval."""
    slices: dict[Name, str | Annotated[list[str], Field(min_length=1)]] | None = None
    """Slice of the test rows -> the rule that its rows fulfil, or a list of rules that they all fulfil:
    {night: "key~^night", small: "box_area<400", rain: "weather=rain"}. Default: each word that rows carry in
    slice.json."""


class AcceptanceSection(Section):
    """When a student may replace its teachers. In short form only the margin, or only the rule."""

    margin: dict[str, NotNegative] = {}
    """Largest loss allowed, 0 or more, in points or the unit of the score: one number, or by task. Default: 1 point."""
    rule: Literal["interval", "point"] = "interval"
    """What must stay within the margin: the 95 % interval of the difference, or the measured difference alone."""
    slices: dict[str, NotNegative | dict[str, NotNegative]] = {}
    """Slice -> the largest loss allowed on its rows: one number, or by task. Other slices are scored, not judged."""
    gate: bool = False
    """Whether training ends with status 3 if the student is not accepted."""


class Recipe(Section):
    """Everything a run needs."""

    name: Name | None = None
    """Name of the run folder. Default: the recipe's file name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, of the order of rows and of augmentation."""
    student: StudentSection
    """The network that is trained: a timm name, or a mapping with `model`."""
    tasks: Annotated[dict[Name, TaskSection], Field(min_length=1)]
    """What the student learns, by name."""
    data: Annotated[dict[Name, SourceSection], Field(min_length=1)]
    """Data sets by name. A task's own `data` adds one of the task's name."""
    balance: BalanceSection = BalanceSection()
    """How the tasks share the trunk: a method, or a mapping with `method` and `options`."""
    schedule: list[StageSection] = []
    """Stages of the run, one after the other, or fitnets: hints alone up to their layers, then everything."""
    targets: TargetsSection = TargetsSection()
    """Where the teachers' answers come from: live, cached or auto, or a mapping with `from`."""
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    acceptance: AcceptanceSection = AcceptanceSection()
    """How much may be lost: a margin for all tasks, margins by task, interval or point, or a mapping with both."""

    @property
    def trusts_code(self) -> bool:
        """Whether its student may need code of the user's own: a network, or a kind of task."""
        return self.student.trust or any(task.trust for task in self.tasks.values())

    @property
    def networks(self) -> dict[str, TeacherSection]:
        """The trained networks that teach, by name (`teacher_keys`)."""
        return {
            name: network
            for task, section in self.tasks.items()
            if section.networks
            for name, network in zip(teacher_keys(task, len(section.networks)), section.networks, strict=True)
        }
