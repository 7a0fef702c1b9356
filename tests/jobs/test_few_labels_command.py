"""`distill-mtl evaluate --ask` and `--answers`: questions for people, and what their answers say of all pictures."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asked_world
import numpy as np
import pytest
import torch
import toys
import webdataset
from asked_world import (
    KINDS,
    PICTURES,
    fill,
    lines_of,
    numbers,
    pixels,
    png_of,
    truth,
    write_lines,
    write_mask,
)

from distill_mtl import UserError, evaluate
from distill_mtl.cli import main
from distill_mtl.evaluation.few_labels import LabelledSet, Questions
from distill_mtl.evaluation.slices import Slices
from distill_mtl.prediction.named_pictures import find_pictures
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.tasks.base import build_kind


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    asked_world.build(folder)
    return folder


@pytest.fixture(scope="module")
def asked(world: Path) -> Path:
    """75 questions: 15 for each of five kinds."""
    ask(world, 75, world / "ask")
    return world / "ask"


@pytest.fixture
def questions(asked: Path, tmp_path: Path) -> Path:
    """A copy, to be answered."""
    return Path(shutil.copytree(asked, tmp_path / "ask"))


def ask(world: Path, number: int, to: Path, *places: Path, slices: Sequence[str] = ()) -> Questions:
    return evaluate(
        world / "run",
        pictures=[str(place) for place in places or [world / "photos"]],
        ask=number,
        to=to,
        slices=slices,
    )


def judge(world: Path, *answers: Path, **options: Any) -> LabelledSet:
    return evaluate(world / "run", answers=answers, **options)


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return int(ended.value.code or 0)


def refused(world: Path, *answers: Path) -> str:
    with pytest.raises(UserError) as found:
        judge(world, *answers)
    return str(found.value)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_questions_are_the_same_each_time_and_say_nothing_of_answers(
    world: Path, asked: Path, tmp_path: Path
) -> None:
    again = ask(world, 75, tmp_path / "again")
    assert content(tmp_path / "again") == content(asked)
    assert again.number == 75
    assert {task: len(each.questions) for task, each in again.tasks.items()} == dict.fromkeys(KINDS, 15)
    names = {path.stem for path in (asked / "pictures").iterdir()}
    assert names == {line["row"] for line in lines_of(asked)} == set(numbers(asked))
    assert all(line["answer"] == "" for line in lines_of(asked))
    for row, number in numbers(asked).items():
        copied = (asked / "pictures" / f"{row}.png").read_bytes()
        assert copied == (world / "photos" / f"{number:03d}.png").read_bytes()


def test_a_person_gets_a_table_and_tasks_for_label_studio_and_coco(asked: Path) -> None:
    assert {path.name for path in (asked / "coco").iterdir()} == {"things.json"}
    studio = {path.stem for path in (asked / "label_studio").glob("*.xml")}
    assert studio == {"hue", "pose", "traits", "things"}  # masks are files
    tasks = json.loads((asked / "label_studio" / "hue.json").read_text())
    assert len(tasks) == 15
    assert tasks[0]["data"].keys() == {"image", "row", "task"}
    names = [line["name"] for line in lines_of(asked) if line["task"] == "pose"][:2]
    assert names == ["yaw", "pitch"]
    assert "| hue | 15 | one of: red, green, blue |" in (asked / "README.md").read_text()


@pytest.mark.usefixtures("short_runs")
def test_what_all_labels_say_is_what_a_labelled_evaluation_measures(world: Path, tmp_path: Path) -> None:
    """Asked about everything, few labels are all of them: the differences are those of `evaluate --data`, also on
    slices."""
    slices = ["early=key~^0[0-2]", "few=key~^00"]
    asked = ask(world, 10_000, tmp_path / "ask", slices=slices)
    assert asked.slices == {"early": 30, "few": 10}
    assert all(len(each.questions) == each.population for each in asked.tasks.values())
    found = judge(world, fill(tmp_path / "ask"))
    for task in ("hue", "shape", "traits", "things"):
        rows = world / f"{task}-all.tar"
        with webdataset.TarWriter(str(rows), encoder=False) as writer:
            for number in range(PICTURES):
                writer.write(labelled_row(task, number))
        measured = evaluate(
            student=str(world / "run" / "student"),
            against=[str(world / "teachers" / task)],
            data=[str(rows)],
            task=task,
            acceptance={task: 3},
            slices=slices,
        )
        result, (whole,) = found.tasks[task], measured.values()
        deltas = {each.name: each.delta for each in whole.tasks[task].slices}
        assert {each.name: each.delta for each in result.slices} == pytest.approx(deltas, abs=1e-6)
        assert deltas["few"] is None  # of ten rows nothing is said
        assert result.delta == pytest.approx(whole.tasks[task].delta, abs=1e-6)
        assert result.ci95 == pytest.approx((result.delta, result.delta))
        assert result.agreement == pytest.approx(whole.tasks[task].agreement)
    assert found.tasks["pose"].delta == pytest.approx(pose_delta(world), rel=1e-4)


def pose_delta(world: Path) -> float:
    """Of the mean absolute error, which a comparison of models does not know to be the metric."""
    images = torch.from_numpy(np.stack([pixels(number) for number in range(PICTURES)])).movedim(3, 1) / 255
    labels = torch.tensor([list(truth("pose", number).values()) for number in range(PICTURES)])
    errors = []
    for folder in (world / "run" / "student", world / "teachers" / "pose"):
        with torch.no_grad():
            values = load_student(folder)(images)["pose"]["values"]
        errors.append(float((values - labels).abs().mean()))
    return errors[1] - errors[0]


def labelled_row(task: str, number: int) -> dict[str, str | bytes]:
    said = truth(task, number)
    text = said if isinstance(said, str) else None if task == "shape" else json.dumps(said)
    label = png_of(said) if text is None else text.encode()
    return {"__key__": f"{number:03d}", "png": png_of(pixels(number)), KINDS[task].member: label}


def test_a_part_is_enough_and_more_of_it_continues(
    world: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    total = len(lines_of(questions))
    some = judge(world, fill(questions, lambda place: place < total // 2))
    assert "? not accepted yet" in capsys.readouterr().out
    assert all(0 < each.answered < each.asked for each in some.tasks.values())
    assert some.tasks["hue"].anytime
    assert some.tasks["hue"].ci95 is not None
    assert some.tasks["shape"].ci95 is None  # too few for an interval that may be looked at
    rest = judge(world, fill(questions, lambda place: place >= total // 2, "answers.csv"))
    assert all(each.answered == each.asked and not each.anytime for each in rest.tasks.values())
    at_once = Path(shutil.copytree(world / "ask", questions.parent / "at once"))
    assert judge(world, fill(at_once)) == rest
    assert json.loads((questions / "result.json").read_text())["tasks"]["hue"]["answered"] == 15
    page = (questions / "report.html").read_text()
    assert "Results per task" in page
    assert "<script" not in page


def test_a_slice_with_a_margin_decides_and_what_the_pictures_do_not_tell_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    run = asked_world.build(tmp_path, ("hue", "shape"))
    recipe = run / "recipe.resolved.yaml"
    rules = 'slices: {early: "key~^0[0-2]", late: "key~^0[3-5]", small: "box_area<400"}'
    text = recipe.read_text().replace("batch_size: 16}", f"batch_size: 16, {rules}}}")
    recipe.write_text(
        text.replace("acceptance: 1", "acceptance: {margin: 100, slices: {early: {hue: 0.5}, small: 2}}")
    )
    asked = ask(tmp_path, 40, tmp_path / "ask")
    assert asked.slices == {"early": 30, "late": 30}
    assert len(asked.tasks["hue"].questions) == 20  # of all pictures no label is needed, of a slice some are
    told = capsys.readouterr().out
    assert "Slices: early (30 pictures), late (30 pictures)." in told
    assert "Slice small is left out. evaluation.slices.small: no row has a field" in told
    found = evaluate(run, answers=[fill(tmp_path / "ask")])
    told = capsys.readouterr().out
    early = {each.name: each for each in found.tasks["hue"].slices}["early"]
    assert found.tasks["hue"].verdict == "non-inferior"
    assert early.verdict in ("undecided", "inferior")
    assert not found.accepted
    assert "hue in early" in told
    assert "Too few labels to say anything" in told  # of masks, from 30 answers of a slice on
    assert "Slice small is left out. These pictures have no such slice" in told
    assert "Slices, worst first" in (tmp_path / "ask" / "report.html").read_text()
    assert status(run, "--answers", tmp_path / "ask" / "answers.csv", "--slices", "a=key~1") == 2
    assert "--slices goes with --ask" in capsys.readouterr().err


def test_a_slice_that_cannot_lose_its_margin_is_judged_without_a_label(tmp_path: Path) -> None:
    run = asked_world.build(tmp_path, ("hue",))
    recipe = run / "recipe.resolved.yaml"
    text = recipe.read_text().replace("batch_size: 16}", 'batch_size: 16, slices: {early: "key~^0[0-2]"}}')
    recipe.write_text(text.replace("acceptance: 1", "acceptance: {margin: 101, slices: {early: 101}}"))
    assert ask(tmp_path, 40, tmp_path / "ask").number == 0
    found = evaluate(run, answers=[tmp_path / "ask" / "answers.csv"])
    (early,) = found.tasks["hue"].slices
    assert (early.population > 0, early.delta, early.verdict) == (True, None, "non-inferior")
    assert found.accepted


def test_pictures_in_shards_carry_slices_in_their_members(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "pool.tar"), encoder=False) as writer:
        for number, light in enumerate(["night", "day", "night"]):
            row = {"__key__": f"{number}", "png": png_of(pixels(number))}
            writer.write(row | {"slice.json": json.dumps({"light": light, "area": number}).encode()})
    pictures = find_pictures([str(tmp_path / "pool.tar")])
    places = [picture.place for picture in pictures.pictures]
    assert Slices().rows(pictures, [""], None)[""] == {
        "light=day": {places[1]},
        "light=night": {places[0], places[2]},
    }
    rules = Slices.of({"large": ["area>0", "light=night"], "first": "key=0"})
    assert rules.rows(pictures, [""], None)[""] == {"large": {places[2]}, "first": {places[0]}}


def test_gaps_and_what_nobody_can_say_are_named(
    world: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    fill(questions)
    lines = lines_of(questions)
    hues = [line for line in lines if line["task"] == "hue"]
    hues[2]["answer"], hues[4]["answer"] = "", "?"
    found = judge(world, write_lines(questions / "answers.csv", lines))
    assert (found.tasks["hue"].answered, found.tasks["hue"].skipped) == (13, 1)
    told = capsys.readouterr().out
    assert f"hue: 1 question before the last answer without one: {hues[2]['row']}." in told
    assert "hue: 1 picture that nobody can answer, left out." in told


def _change(task: str, key: str, value: str) -> Callable[[list[dict[str, str]]], None]:
    def change(lines: list[dict[str, str]]) -> None:
        next(line for line in lines if line["task"] == task)[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_change("hue", "row", "9999"), "there is no row '9999'"),
        (_change("hue", "task", "hued"), "there is no task 'hued'. Did you mean 'hue'?"),
        (_change("hue", "answer", "purple"), "neither a class number from 0 to 2 nor one of the class names"),
        (_change("pose", "answer", "far"), "yaw is 'far'; a number is expected"),
        (_change("shape", "answer", "masks/none.png"), "masks/none.png cannot be read"),
        (_change("things", "answer", '[{"class": "cup"}]'), "needs `box: [left, top, width, height]`"),
        (lambda lines: lines.append(lines[0] | {"answer": "blue"}), "is answered 2 times"),
    ],
)
def test_answers_that_cannot_be_used_are_named(
    world: Path, questions: Path, change: Callable[[list[dict[str, str]]], None], said: str
) -> None:
    fill(questions)
    lines = lines_of(questions)
    change(lines)
    assert said in refused(world, write_lines(questions / "answers.csv", lines))
    assert not (questions / "result.json").exists()


def test_a_row_of_another_task_is_named(world: Path, questions: Path) -> None:
    fill(questions)
    lines = lines_of(questions)
    hues = {line["row"] for line in lines if line["task"] == "hue"}
    stranger = next(line for line in lines if line["row"] not in hues)
    stranger |= {"task": "hue", "name": "", "answer": "red"}
    told = refused(world, write_lines(questions / "answers.csv", lines))
    assert f"row {stranger['row']} was not asked for hue, but for" in told


def test_questions_of_a_slice_that_is_not_counted_are_refused(tmp_path: Path, world: Path) -> None:
    asked = ask(world, 20, tmp_path / "ask", slices=["early=key~^0[0-2]"])
    (tmp_path / "ask" / "ask.json").write_text(asked.model_copy(update={"slices": {}}).to_json())
    assert "'early'" in refused(world, tmp_path / "ask" / "answers.csv")


def test_an_empty_table_says_so(world: Path, questions: Path) -> None:
    assert "no question is answered yet" in refused(world, questions / "answers.csv")


def in_label_studio(folder: Path, task: str) -> Path:
    """What Label Studio exports where somebody has labelled with our interface."""
    named, exported = numbers(folder), []
    for item in json.loads((folder / "label_studio" / f"{task}.json").read_text()):
        said = truth(task, named[item["data"]["row"]])
        if task == "hue":
            results = [{"type": "choices", "value": {"choices": [said]}, "from_name": "answer"}]
        elif task == "traits":
            chosen = [name for name, there in said.items() if there]
            results = [{"type": "choices", "value": {"choices": chosen}, "from_name": "answer"}]
        elif task == "pose":
            results = [{"from_name": name, "value": {"number": value}} for name, value in said.items()]
        else:
            results = [box_of_label_studio(thing) for thing in said]
        exported.append(
            item | {"id": len(exported), "annotations": [{"result": results, "was_cancelled": False}]}
        )
    path = folder / f"export-{task}.json"
    path.write_text(json.dumps(exported))
    return path


def box_of_label_studio(thing: dict[str, Any]) -> dict[str, Any]:
    left, top, width, height = (100 * side / toys.SIZE for side in thing["box"])
    value = {"x": left, "y": top, "width": width, "height": height, "rotation": 0}
    value |= {"rectanglelabels": [thing["class"]]}
    return {"original_width": toys.SIZE, "original_height": toys.SIZE, "value": value}


def test_label_studio_and_folders_say_what_the_table_says(world: Path, questions: Path) -> None:
    table = judge(world, fill(questions))
    for row, number in numbers(questions).items():
        if any(line["row"] == row and line["task"] == "shape" for line in lines_of(questions)):
            write_mask(questions / "folder" / "shape" / f"{row}.png", truth("shape", number))
    exports = [in_label_studio(questions, task) for task in ("hue", "pose", "traits", "things")]
    assert judge(world, *exports, questions / "folder") == table


def test_boxes_in_coco_say_what_the_table_says(world: Path, questions: Path) -> None:
    table = judge(world, fill(questions)).tasks["things"]
    named, coco = numbers(questions), json.loads((questions / "coco" / "things.json").read_text())
    ids = {category["name"]: category["id"] for category in coco["categories"]}
    for image in coco["images"]:
        for thing in truth("things", named[Path(image["file_name"]).stem]):
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]),
                    "image_id": image["id"],
                    "category_id": ids[thing["class"]],
                    "bbox": thing["box"],
                }
            )
    (questions / "things.json").write_text(json.dumps(coco))
    found = judge(world, questions / "things.json").tasks["things"]
    trailing = 15 - found.answered  # pictures behind the last one with a box may not have been looked at
    assert trailing < 10
    if not trailing:
        assert found == table


def test_answers_to_questions_about_another_student_are_refused(
    world: Path, questions: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(world / "run", other)
    save_student(toys.toy_student(KINDS, seed=1), other / "student")
    with pytest.raises(UserError, match="the student is not the one that the questions were drawn for"):
        evaluate(other, answers=[fill(questions)])


def test_unreadable_pictures_are_counted_and_shards_are_pictures_too(world: Path, tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "pool.tar"), encoder=False) as writer:
        for number in range(6):
            payload = png_of(pixels(number)) if number else b"no picture"
            writer.write({"__key__": f"{number}", "png": payload})
    found = ask(world, 5, tmp_path / "ask", tmp_path / "pool.tar")
    assert (found.pictures, found.unread) == (5, 1)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "one.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of the 1 pictures can be read"):
        ask(world, 5, tmp_path / "none", broken)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--ask", 5), "--ask needs --pictures"),
        (("--ask", 5, "--pictures", "x"), "--ask needs --to"),
        (("--ask", 0, "--pictures", "x", "--to", "y"), "--ask 0"),
        (("--pictures", "x"), "--pictures goes with --ask N"),
        (("--ask", 5, "--answers", "a.csv"), "give one of them"),
        (("--answers", "a.csv", "--write"), "--write does not go with --answers"),
        (("--answers", "a.csv"), "there is no ask.json beside a.csv"),
        (("--ask", 5, "--pictures", "PHOTOS", "--to", "PHOTOS"), "is not empty"),
    ],
)
def test_what_lacks_or_does_not_fit_is_named(
    world: Path,
    given: tuple[object, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [world / "photos" if each == "PHOTOS" else each for each in given]
    assert status(world / "run", *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_status_says_whether_the_student_is_accepted(world: Path, tmp_path: Path) -> None:
    to = tmp_path / "ask"
    assert status(world / "run", "--pictures", world / "photos", "--ask", 40, "--to", to) == 0
    fill(to)
    assert status(world / "run", "--answers", to / "answers.csv") == 3
    assert status(world / "run", "--answers", to / "answers.csv", "--acceptance", 1000) == 0
    results = tmp_path / "results.json"
    assert status(world / "run", "--answers", to / "answers.csv", "--json", results) == 3
    assert json.loads(results.read_text())["accepted"] is False


def with_its_own_teacher(folder: Path, *tasks: str) -> Path:
    """A run whose student answers the first task as its teacher does."""
    run = asked_world.build(folder, tasks)
    shutil.rmtree(folder / "teachers" / tasks[0])
    alone = toys.toy_student({tasks[0]: KINDS[tasks[0]]}, seed=9)
    state = load_student(run / "student").student.state_dict()
    alone.load_state_dict({key: value for key, value in state.items() if key in alone.state_dict()})
    save_student(alone, folder / "teachers" / tasks[0])
    return run


def test_a_student_that_answers_like_its_teacher_needs_no_label(tmp_path: Path) -> None:
    run = with_its_own_teacher(tmp_path, "hue", "shape")
    found = evaluate(run, pictures=[str(tmp_path / "photos")], ask=12, to=tmp_path / "ask")
    assert {task: len(each.questions) for task, each in found.tasks.items()} == {"hue": 0, "shape": 12}
    hue = evaluate(run, answers=[fill(tmp_path / "ask")]).tasks["hue"]
    assert (hue.delta, hue.ci95, hue.verdict) == (0.0, (0.0, 0.0), "non-inferior")


def test_without_a_question_the_student_is_accepted_all_the_same(tmp_path: Path) -> None:
    run = with_its_own_teacher(tmp_path, "hue")
    assert evaluate(run, pictures=[str(tmp_path / "photos")], ask=12, to=tmp_path / "ask").number == 0
    assert evaluate(run, answers=[tmp_path / "ask" / "answers.csv"]).accepted


def test_a_task_with_several_teachers_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    run, teacher = asked_world.build(tmp_path, ("hue", "shape")), tmp_path / "teachers" / "hue"
    other = toys.toy_teacher_folder(tmp_path / "other", "hue", KINDS["hue"], seed=5)
    recipe = run / "recipe.resolved.yaml"
    recipe.write_text(recipe.read_text().replace(f"teacher: {teacher},", f"teacher: [{teacher}, {other}],"))
    found = evaluate(run, pictures=[str(tmp_path / "photos")], ask=5, to=tmp_path / "ask")
    assert list(found.tasks) == ["shape"]
    assert "hue: it has several teachers, so it is neither asked nor judged here." in capsys.readouterr().out


def test_pictures_beside_answers_must_be_those_that_were_asked_about(world: Path, questions: Path) -> None:
    fill(questions)
    photos = str(world / "photos")
    assert judge(world, questions / "answers.csv", pictures=[photos]).pictures == PICTURES
    some = [f"{photos}/{number:03d}.png" for number in range(1, PICTURES)]
    with pytest.raises(UserError, match="59 pictures are there"):
        judge(world, questions / "answers.csv", pictures=some)


def test_top5_asks_where_the_five_likeliest_classes_differ() -> None:
    kind = build_kind("classification", tuple("abcdefg"), "top5")
    one = torch.tensor([[7.0, 6, 5, 4, 3, 2, 1], [7.0, 6, 5, 4, 3, 2, 1]])
    other = torch.tensor([[3.0, 4, 5, 6, 7, 2, 1], [7.0, 6, 5, 4, 2, 3, 1]])
    assert kind.may_differ(one, other).tolist() == [False, True]
