import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from teacher_folders import edit_config, timm_folder

from distill_mtl.errors import TeacherError
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher


def load(folder: Path, **options: object) -> Teacher:
    head = options.pop("head", None)
    return load_teacher(TeacherSection(path=str(folder), task=head), task="breed", **options)


def test_the_network_is_the_one_that_timm_opens(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    ours, images = load(tmp_path), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(
            ours(images).logits, theirs(ours.network.backbone.preprocess(images)), atol=1e-5
        )


@pytest.mark.parametrize(
    "names", [["cat", "dog", "owl", "eel"], {"1": "dog", "0": "cat", "3": "eel", "2": "owl"}]
)
def test_class_names_come_from_label_names_in_the_order_of_the_logits(tmp_path: Path, names: object) -> None:
    timm_folder(tmp_path, label_names=names)
    assert load(tmp_path).card.classes == ("cat", "dog", "owl", "eel")


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    assert load(tmp_path).card.classes == ("0", "1", "2", "3")


def test_the_recipe_may_name_classes_that_the_folder_does_not(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    assert load(tmp_path, classes=("a", "b", "c", "d")).card.classes == ("a", "b", "c", "d")


def test_the_recipe_may_repeat_what_the_folder_says(tmp_path: Path) -> None:
    timm_folder(tmp_path, label_names=["cat", "dog", "owl", "eel"])
    assert load(tmp_path, classes=4).card.classes == ("cat", "dog", "owl", "eel")
    assert load(tmp_path, classes=("cat", "dog", "owl", "eel")).card.classes == ("cat", "dog", "owl", "eel")


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [
        (5, "4 classes.* 5. .*`classes`"),
        (
            ("cat", "dog", "owl", "elk"),
            "does not know the recipe's classes elk, and the recipe not its classes eel",
        ),
        (("ant", "bee"), "does not know the recipe's classes ant, bee"),
    ],
)
def test_a_recipe_with_other_classes_is_refused(tmp_path: Path, classes: object, complaint: str) -> None:
    timm_folder(tmp_path, label_names=["cat", "dog", "owl", "eel"])
    with pytest.raises(TeacherError, match=complaint) as caught:
        load(tmp_path, classes=classes)
    assert "tasks.breed.teacher" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "outputs", "known"),
    [
        (("dog", "cat", "eel", "owl"), [1, 0, 3, 2], None),
        (("eel", "cat"), [3, 0], None),
        (("ant", "owl", "cat", "dog", "eel"), [2, 0, 1, 3], (1, 2, 3, 4)),
    ],
)
def test_classes_are_matched_by_name(
    tmp_path: Path, classes: tuple[str, ...], outputs: list[int], known: tuple[int, ...] | None
) -> None:
    timm_folder(tmp_path, label_names=["cat", "dog", "owl", "eel"])
    images = torch.rand(2, 3, 64, 64)
    own, mapped = load(tmp_path)(images).logits, load(tmp_path, classes=classes)
    logits = mapped(images).logits
    assert mapped.card.classes == classes
    assert mapped.card.known == known
    places = list(known) if known is not None else list(range(len(classes)))
    assert torch.equal(logits[:, places], own[:, outputs])
    silent = [place for place in range(len(classes)) if place not in places]
    assert bool((logits.softmax(1)[:, silent] == 0).all())


def test_a_wrong_number_of_names_for_unnamed_classes_is_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    with pytest.raises(TeacherError, match="says 4 classes, the recipe says 2"):
        load(tmp_path, classes=("a", "b"))


def test_label_names_that_miss_a_class_are_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    edit_config(tmp_path, label_names=["cat", "dog"])
    with pytest.raises(TeacherError, match="4 classes in label_names, found 2"):
        load(tmp_path)


def test_another_kind_of_task_is_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    with pytest.raises(TeacherError, match=r"a vector .*segmentation.* tasks\.breed"):
        load(tmp_path, kind="segmentation")
    assert load(tmp_path).card.kind == "classification"
    for kind in ("classification", "multilabel", "regression"):  # timm's form does not say what its vector is
        assert load(tmp_path, kind=kind).card.kind == kind


def test_a_class_count_that_would_leave_the_head_random_is_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    edit_config(tmp_path, num_classes=7, model_args={"num_classes": 4})
    with pytest.raises(TeacherError, match=" 7 classes.* 4\\."):
        load(tmp_path)
    edit_config(tmp_path, num_classes=7, model_args={})
    with pytest.raises(TeacherError, match=r"fc\.weight .*\[4, 96\].*\[7, 96\]"):
        load(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    edit_config(tmp_path, architecture="test_convnext", model_args=None)
    with pytest.raises(TeacherError, match="do not fit the network"):
        load(tmp_path)


def test_a_weight_that_is_missing_in_the_file_is_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["layer2.0.bn1.running_mean"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(TeacherError, match=r"missing in the file: layer2\.0\.bn1\.running_mean"):
        load(tmp_path)


def test_a_network_without_a_classifier_is_read_as_an_embedding(tmp_path: Path) -> None:
    timm_folder(tmp_path, classes=0)
    assert load(tmp_path).card.kind == "embedding"
    with pytest.raises(TeacherError, match="is an embedding network.*Write `kind: embedding`"):
        load_teacher(TeacherSection(path=str(tmp_path)), task="feel", kind="classification")


def test_a_folder_with_a_pickle_alone_is_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(TeacherError, match="pickle, which could run code"):
        load(tmp_path)


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="nowhere.* no such folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"hidden_size": 768}, "neither timm's .* nor a student's"),
        ({"architecture": "resnet18000"}, r"no model resnet18000\. Did you mean"),
        (
            {"architecture": "test_resnet", "pretrained_cfg": {}, "model_args": {"wings": 2}},
            "timm cannot build .*wings",
        ),
        ({"format": "somebody.else"}, "unknown .*'somebody.else'"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(
    tmp_path: Path, config: dict[str, object], complaint: str
) -> None:
    timm_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TeacherError, match=complaint):
        load(tmp_path)


def test_a_head_asked_for_in_a_folder_of_one_classifier_is_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    with pytest.raises(TeacherError, match="no task 'breed'"):
        load(tmp_path, head="breed")


def test_an_unknown_hint_layer_is_answered_with_the_nearest(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    with pytest.raises(TeacherError, match=r"no layer 'layer5'\. Did you mean 'layer"):
        load(tmp_path, layers=["layer5"])


def test_a_score_file_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    (tmp_path / "score.json").write_text(json.dumps({"score": 90}))
    with pytest.raises(TeacherError, match=r"score\.json, metric"):
        load(tmp_path)
