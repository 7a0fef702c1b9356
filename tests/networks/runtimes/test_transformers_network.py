import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from distill_mtl.errors import TeacherError, UserError
from distill_mtl.networks.opening import open_network
from distill_mtl.recipe.schema import InputSection, TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher

transformers = pytest.importorskip("transformers")
PETS = {0: "cat", 1: "dog", 2: "owl"}


def vit(folder: Path, **config: Any) -> Any:
    """A classifier with its image processor, saved as the library saves it."""
    torch.manual_seed(1)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    names = {"id2label": PETS, "label2id": {name: number for number, name in PETS.items()}}
    made = transformers.ViTConfig(image_size=32, patch_size=8, **settings, **names, **config)
    network = transformers.ViTForImageClassification(made).eval()
    return saved(network, transformers.ViTImageProcessor(size={"height": 32, "width": 32}), folder)


def segformer(folder: Path) -> Any:
    widths = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "depths": [1] * 4}
    config = transformers.SegformerConfig(decoder_hidden_size=16, num_labels=3, **widths)
    network = transformers.SegformerForSemanticSegmentation(config).eval()
    return saved(network, transformers.SegformerImageProcessor(size={"height": 64, "width": 64}), folder)


def depth(folder: Path) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28}
    backbone = transformers.Dinov2Config(
        **sizes, patch_size=7, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    widths = {"reassemble_hidden_size": 16, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=7, head_hidden_size=4, **widths
    )
    network = transformers.DepthAnythingForDepthEstimation(config).eval()
    return saved(network, transformers.DPTImageProcessor(size={"height": 28, "width": 28}), folder)


def saved(network: Any, processor: Any, folder: Path) -> Any:
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network


def teacher_in(folder: Path, **keys: Any) -> Teacher:
    return load_teacher(TeacherSection(transformers=str(folder), **keys), task="pet", layers=[None])


@pytest.mark.parametrize(
    ("make", "kind", "answer"),
    [
        (vit, "classification", "logits"),
        (segformer, "segmentation", "logits"),
        (depth, "depth", "predicted_depth"),
    ],
)
def test_a_folder_alone_is_a_teacher_that_answers_as_the_eager_network(
    tmp_path: Path, make: Callable[[Path], Any], kind: str, answer: str
) -> None:
    network = make(tmp_path)
    teacher, images = teacher_in(tmp_path), torch.rand(2, 3, 50, 50)
    assert (teacher.card.kind, teacher.card.assumed) == (kind, ())
    with torch.no_grad():
        expected = network(pixel_values=teacher.network.preprocess(images))[answer]
    expected = expected.unsqueeze(1) if expected.ndim == 3 else expected
    assert torch.allclose(teacher(images).logits, expected, atol=1e-5)
    assert teacher.parameter_count == sum(parameter.numel() for parameter in network.parameters())


def test_what_it_sees_is_what_its_processor_makes(tmp_path: Path) -> None:
    network = vit(tmp_path)
    picture = (torch.rand(3, 45, 61) * 255).to(torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = network(**processor(images=picture, return_tensors="pt")).logits
    assert torch.allclose(teacher_in(tmp_path)(picture[None] / 255).logits, expected, atol=0.01)


def test_classes_are_those_of_the_config(tmp_path: Path) -> None:
    vit(tmp_path)
    assert teacher_in(tmp_path).card.classes == ("cat", "dog", "owl")
    segformer(tmp_path / "map")
    assert open_network(tmp_path / "map").tasks["map"].classes is None


def test_hidden_states_have_names(tmp_path: Path) -> None:
    network, images = vit(tmp_path), torch.rand(2, 3, 32, 32)
    teacher = load_teacher(
        TeacherSection(transformers=str(tmp_path)), task="pet", layers=["vit.layers.0", "vit.layers.1"]
    )
    with torch.no_grad():
        states = network(
            pixel_values=teacher.network.preprocess(images), output_hidden_states=True
        ).hidden_states
    for layer, state in zip(teacher.card.layers, states[1:], strict=True):
        grid = state[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        assert torch.allclose(teacher(images).hidden[layer], grid, atol=1e-5)


def test_a_path_to_such_a_folder_is_the_same_teacher(tmp_path: Path) -> None:
    vit(tmp_path / "pets")
    named = teacher_in(tmp_path / "pets")
    found = load_teacher(TeacherSection(path=str(tmp_path / "pets")), task="pet", layers=[None])
    assert found.card.fingerprint == named.card.fingerprint
    assert found.card.form == "a network of transformers"


def test_attributes_are_what_the_config_calls_them(tmp_path: Path) -> None:
    vit(tmp_path, problem_type="multi_label_classification")
    assert teacher_in(tmp_path).card.kind == "multilabel"


def test_weights_in_several_files_are_read_and_pinned(tmp_path: Path) -> None:
    network = vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    network.save_pretrained(tmp_path, max_shard_size="40KB")
    teacher = teacher_in(tmp_path)
    assert sum(file.suffix == ".safetensors" for file in teacher.card.files) > 1
    assert {file.name for file in teacher.card.files} >= {"config.json", "preprocessor_config.json"}


def test_without_a_processor_the_colours_are_assumed(tmp_path: Path) -> None:
    vit(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    card = teacher_in(tmp_path).card
    assert (card.inputs.size, card.assumed) == ((32, 32), ("mean", "std", "white", "channels"))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    network = vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(TeacherError, match=r"pytorch_model\.bin, a pickle.*save_file.*save_pretrained"):
        teacher_in(tmp_path)


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    network = vit(tmp_path)
    network.vit.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "architectures": ["ViTForImageClassification"]})
    )
    with pytest.raises(
        TeacherError, match=r"lack classifier\.bias, classifier\.weight, which would be random"
    ):
        teacher_in(tmp_path)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        (
            {"architectures": ["ViTForImageClasification"]},
            "ViTForImageClasification is not a network.*'ViTForImageClassification'",
        ),
        (
            {"architectures": ["Theirs"], "auto_map": {"AutoModel": "code.Theirs"}},
            "code of its own.*`auto_map`.*module",
        ),
        ({"attn_implementation": "theirs/kernel"}, "theirs/kernel' is code from a repository"),
        ({"text": {"_attn_implementation": {"": "theirs/kernel"}}}, "is code from a repository"),
        ({"hidden_size": 64}, "the weights have other shapes than its config.json says"),
    ],
)
def test_what_transformers_does_not_build_is_refused(
    tmp_path: Path, entries: dict[str, Any], complaint: str
) -> None:
    vit(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | entries))
    with pytest.raises(TeacherError, match=complaint):
        teacher_in(tmp_path)


@pytest.mark.parametrize("entry", [{"image_mean": "grey"}, {"image_std": [0, 0, 0]}])
def test_a_processor_that_cannot_be_run_is_refused_unless_the_recipe_says_the_input(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    vit(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entry))
    with pytest.raises(TeacherError, match=r"preprocessor_config\.json.*`input"):
        teacher_in(tmp_path)
    said = InputSection(size=32, mean=[0.5] * 3, std=[0.5] * 3, white=1.0, channels="rgb")
    assert teacher_in(tmp_path, input=said).card.inputs.mean == (0.5,) * 3


def test_a_name_is_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        TeacherError, match=r"owner/pets cannot be fetched.*hf download owner/pets.*copy the folder"
    ):
        teacher_in(Path("owner/pets"))
    home = tmp_path / "hub" / "models--owner--pets"
    vit(home / "snapshots" / "0123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    assert teacher_in(Path("owner/pets")).card.classes == ("cat", "dog", "owl")


def test_the_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vit(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'distill_mtl\[transformers\]'"):
        open_network(tmp_path)
