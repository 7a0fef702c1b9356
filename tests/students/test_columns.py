"""Students of columns: one network for each task, joined behind stages, or beside frozen older ones."""

import copy
from pathlib import Path
from typing import Any

import pytest
import student_toys
import torch
from student_toys import apart
from student_toys import three_kinds as kinds
from torch import Tensor, nn

from distill_mtl.balance import Tree
from distill_mtl.errors import StudentError
from distill_mtl.evaluation.cost import networks_run, node_costs
from distill_mtl.networks.inputs import InputContract
from distill_mtl.recipe.schema import ColumnsSection, StudentSection, TeacherSection
from distill_mtl.students.initial_weights import InitialHead, build_student, find_initial_student
from distill_mtl.students.shapes.columns import Columns
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.students.timm_form import save_timm
from distill_mtl.students.units import NDDR, CrossStitch, Place, Sluice
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.training.optimizer import hidden_matrices

SIZE = 32
MODELS = ("test_resnet", "test_vit")
KINDS = ("cross_stitch", "sluice", "nddr")


def student(*given: Any, **keys: Any) -> Student:
    return student_toys.student(*given, **{"input_size": SIZE, **keys})


def columns(model: str = "test_resnet", kind: str = "cross_stitch", **keys: Any) -> tuple[Student, Columns]:
    """A student of coupled columns, in evaluation mode."""
    own = {key: keys.pop(key) for key in ("own", "after", "each", "subspaces") if key in keys}
    found = student(model, tasks=kinds(), columns=ColumnsSection(kind=kind, **own), **keys)
    assert isinstance(found.trunk, Columns)
    return found, found.trunk


def images(rows: int = 2, size: int = SIZE) -> Tensor:
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(0))


def answers(found: nn.Module, rows: int = 2) -> dict[str, Tensor]:
    with torch.no_grad():
        given: dict[str, Tensor] = found(images(rows))
        return given


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[task], other[task]) for task in one)


def teachers(folder: Path, *, model: str = "test_resnet", **keys: Any) -> dict[str, Path]:
    """A trained network of each task, with weights of its own; of `c` in timm's form."""
    folders = {}
    for seed, (task, kind) in enumerate(kinds().items()):
        one = student(model, seed=seed + 1, tasks={task: kind}, **keys)
        folders[task] = folder / task
        save_timm(one, task, folder / task) if task == "c" else save_student(one, folder / task)
    return folders


def begun_as(folders: dict[str, Path], own: float, *, model: str = "test_resnet") -> Student:
    heads = {}
    for task, place in folders.items():
        section = TeacherSection(path=str(place))
        card = load_teacher(section, task=task, kind=kinds()[task].name, layers=[]).card
        heads[task] = InitialHead(place, None, card.labels)
    section = StudentSection(
        model=model, input_size=SIZE, init="teachers", columns=ColumnsSection(kind="cross_stitch", own=own)
    )
    return build_student(section, kinds(), seed=0, teacher_folders=folders, initial_heads=heads).eval()


# Coupled columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_columns_that_keep_to_themselves_are_their_teachers_to_the_bit(model: str, tmp_path: Path) -> None:
    folders = teachers(tmp_path, model=model)
    given = answers(begun_as(folders, 1.0, model=model))
    for task, place in folders.items():
        section = TeacherSection(path=str(place))
        teacher = load_teacher(section, task=task, kind=kinds()[task].name, layers=[])
        assert torch.equal(given[task], teacher(images()).logits), task
    assert not same(given, answers(begun_as(folders, 0.9, model=model)))


def test_a_teacher_of_another_architecture_is_refused_by_its_task(tmp_path: Path) -> None:
    folders = teachers(tmp_path)
    save_student(student("test_convnext", tasks={"b": kinds()["b"]}), tmp_path / "other")
    with pytest.raises(StudentError, match=r"(?s)student\.init: .*teacher of b.*test_resnet.*teacher:TASK"):
        begun_as({**folders, "b": tmp_path / "other"}, 1.0)
    with pytest.raises(StudentError, match="b has no teacher"):
        begun_as({task: folders[task] for task in ("a", "c")}, 1.0)


def test_teachers_that_want_other_pixels_are_refused(tmp_path: Path) -> None:
    folders = teachers(tmp_path)
    section = StudentSection(
        model="test_resnet", input_size=SIZE, init="teachers", columns=ColumnsSection(kind="cross_stitch")
    )
    own = InputContract((SIZE, SIZE), (0.0,) * 3, (0.5,) * 3)
    with pytest.raises(StudentError, match="a and b want different pixels.*mean"):
        build_student(section, kinds(), seed=0, teacher_folders=folders, teacher_inputs={"a": own})


def test_teachers_cannot_begin_what_their_tasks_share(tmp_path: Path) -> None:
    section = StudentSection(model="test_resnet", input_size=SIZE, init="teachers")
    with pytest.raises(StudentError, match=r"student\.init: .*a and b have weights of their own"):
        build_student(section, kinds(), seed=0, teacher_folders=teachers(tmp_path))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_student_of_columns_gives_the_same_answers(kind: str, model: str, tmp_path: Path) -> None:
    found, _ = columns(model, kind)
    save_student(apart(found), tmp_path)
    assert '"format_version": 2' in (tmp_path / "config.json").read_text()
    assert same(answers(found), answers(load_student(tmp_path).student))


@pytest.mark.parametrize("kind", KINDS)
def test_one_task_of_columns_keeps_them_all_and_its_answers(kind: str, tmp_path: Path) -> None:
    found, trunk = columns(kind=kind)
    apart(found)
    part = trunk.only(["c"])
    assert isinstance(part, Columns)
    with torch.no_grad():
        assert torch.equal(part.of("c", part(images()))["layer4"], trunk.of("c", trunk(images()))["layer4"])
    save_student(found, tmp_path)
    teacher = load_teacher(
        TeacherSection(path=str(tmp_path)), task="b", kind="segmentation", layers=["layer2", None]
    )
    told = teacher(images())
    assert torch.equal(told.logits, answers(found)["b"])
    with torch.no_grad():
        assert torch.equal(told.hidden["layer2"], trunk.of("b", trunk(images()))["layer2"])


@pytest.mark.parametrize("kind", KINDS)
def test_columns_begin_as_an_older_student_of_the_same_columns(kind: str, tmp_path: Path) -> None:
    old = apart(columns(kind=kind)[0])
    save_student(old, tmp_path)
    found = find_initial_student(str(tmp_path))
    assert found is not None
    section = found.settle(StudentSection(init=str(tmp_path)), list(kinds()))
    new = build_student(section, kinds(), seed=9).trunk.state_dict()
    assert all(torch.equal(value, new[key]) for key, value in old.trunk.state_dict().items())
    with pytest.raises(StudentError, match="d has none"):
        found.settle(StudentSection(init=str(tmp_path)), [*kinds(), "d"])
    with pytest.raises(StudentError, match="column of a reads the others"):
        student(tasks=kinds(), init=str(tmp_path))


def test_every_task_reads_the_layers_behind_its_own_unit() -> None:
    found, trunk = columns(after=["layer2", "layer3"], own=0.7)
    apart(found)
    with torch.no_grad():
        features = trunk(images())
        network, chain = trunk.model, trunk.model.chain
        pixels = trunk.preprocess(images()).contiguous(memory_format=torch.channels_last)
        end = chain.position("layer2") + 1
        given = [chain.run(column, pixels, 0, end) for column in network.columns.values()]
        unit: Any = network.units["layer2"]
        assert torch.equal(trunk.of("b", features)["layer2"], unit["b"](given))
    assert trunk.shapes == student(tasks=kinds()).trunk.shapes


def place(**keys: Any) -> Place:
    return Place(
        **{"stage": "s", "position": 1, "columns": 3, "channels": 4, "dim": 1, "positive": True, **keys}
    )


@pytest.mark.parametrize(("dim", "shape"), [(1, (2, 4, 5, 6)), (-1, (2, 7, 4))])
def test_units_mix_as_their_formulas_say(dim: int, shape: tuple[int, ...]) -> None:
    noise = torch.Generator().manual_seed(0)
    states = [torch.rand(shape, generator=noise) for _ in range(3)]
    stacked = torch.stack([state.movedim(dim, -1) for state in states], -1)  # [..., C, columns]
    stitch = CrossStitch(place(dim=dim), own=0.8, each="channel")
    assert torch.allclose(stitch.alpha.sum(0), torch.ones(4))
    alpha = torch.rand(3, 4, generator=noise)
    stitch.alpha.data.copy_(alpha)
    assert torch.allclose(stitch(states).movedim(dim, -1), (stacked * alpha.T).sum(-1))
    sluice = Sluice(place(dim=dim), own=0.8, subspaces=2)
    assert torch.allclose(sluice.alpha.sum((1, 2)), torch.ones(2))
    sluice.alpha.data.copy_(beta := torch.rand(2, 3, 2, generator=noise))
    wanted = torch.einsum("gsh,...hcs->...gc", beta, stacked.unflatten(-2, (2, 2)))
    assert torch.allclose(sluice(states).movedim(dim, -1), wanted.flatten(-2))
    nddr = NDDR(place(dim=dim), own=0.8).eval()
    plain = CrossStitch(place(dim=dim), own=0.8, each="column")
    assert torch.allclose(nddr(states), plain(states), rtol=1e-4)  # diagonal, and statistics as they begin


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_keeps_channels_last_and_the_type(kind: str) -> None:
    _, trunk = columns(kind=kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for layer, feature in trunk.of("a", trunk(images())).items():
            if layer in trunk.stages[1:]:
                assert feature.is_contiguous(memory_format=torch.channels_last)
                assert feature.dtype == torch.bfloat16


def test_units_step_apart_from_the_networks_and_are_no_matrices_to_orthogonalise() -> None:
    for kind in KINDS:
        _, trunk = columns(kind=kind)
        units = {id(parameter) for parameter in trunk.units()}
        assert units
        assert not units & {id(parameter) for parameter in hidden_matrices(trunk)}
        named = dict(trunk.named_parameters())
        undecayed = {id(named[name]) for name in trunk.undecayed()}
        alphas = {id(p) for name, p in named.items() if name.endswith(".alpha")}
        assert alphas <= undecayed
    stems = {id(next(iter(column.parameters()))) for column in trunk.networks}
    assert len(stems) == 3
    assert not stems & {id(parameter) for parameter in hidden_matrices(trunk)}


def test_the_cut_gives_the_gradients_of_a_plain_backward() -> None:
    parted, trunk = columns()
    apart(parted)
    whole = copy.deepcopy(parted)
    total = sum(logits.square().mean() for logits in whole(images(4)).values())
    assert isinstance(total, Tensor)
    total.backward()
    shared = trunk.cut(images(4), list(kinds()))
    assert isinstance(shared, Tree)
    losses = [parted.heads[task](shared[task]).square().mean() for task in kinds()]
    torch.stack(losses).sum().backward()
    others = dict(whole.named_parameters())
    for name, parameter in parted.named_parameters():
        expected = others[name].grad
        assert expected is None or (
            parameter.grad is not None and torch.allclose(parameter.grad, expected)
        ), name


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"after": ["layr3"]}, "student.columns: .*layer3"),
        ({"kind": "sluice", "subspaces": 5}, "32 channels.*5 equal subspaces"),
        ({"kind": "progressive"}, "init: runs/OLD"),
    ],
)
def test_columns_that_cannot_be_are_refused(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StudentError, match=complaint):
        columns(**keys)


def test_stages_that_give_several_tensors_are_refused() -> None:
    with pytest.raises(StudentError, match="stage2 gives several tensors"):
        columns("hrnet_w18_small", after=["stage2"])


# Progressive columns ------------------------------------------------------------------------------


def beside(folder: Path, tasks: dict[str, TaskKind], **keys: Any) -> Student:
    """A student with a new column beside the one in the folder, its old heads taken over."""
    old = find_initial_student(str(folder))
    assert old is not None
    section = StudentSection(init=str(folder), columns=ColumnsSection(kind="progressive", **keys))
    heads = {}
    for task in old.tasks:
        card = load_teacher(
            TeacherSection(path=str(folder)), task=task, kind=tasks[task].name, layers=[]
        ).card
        heads[task] = InitialHead(folder, task, card.labels, inherited=True)
    return build_student(old.settle(section, list(tasks)), tasks, seed=3, initial_heads=heads)


def old_student(folder: Path, model: str = "test_resnet") -> Student:
    tasks = {task: kinds()[task] for task in ("a", "b")}
    old = apart(student(model, tasks=tasks))
    old.train()(images(6))  # running statistics of its own
    save_student(old.eval(), folder)
    return old


@pytest.mark.parametrize("model", MODELS)
def test_steps_of_a_new_column_move_no_old_answer(model: str, tmp_path: Path) -> None:
    before = answers(old_student(tmp_path / "old", model))
    grown = beside(tmp_path / "old", kinds()).train()
    assert grown.trunk.frozen == ("a", "b")
    optimizer = torch.optim.AdamW(grown.parameters(), lr=0.1, weight_decay=0.5)
    moved = copy.deepcopy(grown.state_dict())
    for _ in range(2):
        sum(logits.square().mean() for logits in grown(images(4)).values()).backward()
        optimizer.step()
    changed = {key for key, value in grown.state_dict().items() if not torch.equal(value, moved[key])}
    assert changed
    assert all(
        key.startswith(("trunk.model.columns.c.", "trunk.model.units.", "heads.c.")) for key in changed
    )
    assert any(".units." in key for key in changed)
    save_student(grown.eval(), tmp_path / "new")
    after = answers(load_student(tmp_path / "new").student)
    assert same(before, after)


def test_a_third_column_reads_both_before_it(tmp_path: Path) -> None:
    old_student(tmp_path / "old")
    grown = apart(beside(tmp_path / "old", kinds()).eval())
    save_student(grown, tmp_path / "grown")
    tasks = {**kinds(), "d": build_kind("classification", ["x", "y"])}
    third = beside(tmp_path / "grown", tasks).eval()
    assert list(third.trunk.parts) == ["a+b", "c", "d"]
    assert same(answers(grown), {task: value for task, value in answers(third).items() if task != "d"})
    unit: Any = third.trunk.model.units["layer2"]
    assert (len(unit["c"].scale), len(unit["d"].scale)) == (1, 2)


def test_old_tasks_leave_without_the_new_column(tmp_path: Path) -> None:
    old = old_student(tmp_path / "old")
    grown = beside(tmp_path / "old", kinds()).eval()
    plain, part = grown.trunk.only(["a"]), grown.trunk.only(["c"])
    assert plain.parts == {}
    state = plain.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in old.trunk.model.state_dict().items())
    assert isinstance(part, Columns)
    with torch.no_grad():
        assert torch.equal(
            part.of("c", part(images()))["pooled"], grown.trunk.of("c", grown.trunk(images()))["pooled"]
        )


@pytest.mark.parametrize(
    ("tasks", "complaint"),
    [(("a", "b"), "no column is new"), (("c",), "no answer stays")],
)
def test_what_is_neither_old_nor_new_is_refused(
    tasks: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    old_student(tmp_path)
    old = find_initial_student(str(tmp_path))
    assert old is not None
    section = StudentSection(init=str(tmp_path), columns=ColumnsSection(kind="progressive"))
    with pytest.raises(StudentError, match=complaint):
        old.settle(section, tasks)


def test_a_column_stands_beside_no_tree(tmp_path: Path) -> None:
    tree = student(tasks={task: kinds()[task] for task in ("a", "b")}, branch={"a": "layer4"})
    save_student(tree, tmp_path)
    old = find_initial_student(str(tmp_path))
    assert old is not None
    with pytest.raises(StudentError, match="beside one trunk"):
        old.settle(
            StudentSection(init=str(tmp_path), columns=ColumnsSection(kind="progressive")), ["a", "b", "c"]
        )


def test_what_units_compute_counts_in_the_number_of_networks_that_run() -> None:
    """Of cross-stitch units nearly nothing, of NDDR's convolutions much."""
    runs = {}
    for kind in ("cross_stitch", "nddr"):
        found, _ = columns(kind=kind)
        nodes = node_costs(found, found.trunk.inputs.size)
        runs[kind] = networks_run(nodes, found.trunk)
    assert len(kinds()) == pytest.approx(runs["cross_stitch"], rel=0.02)
    assert runs["nddr"] > 1.1 * len(kinds())
