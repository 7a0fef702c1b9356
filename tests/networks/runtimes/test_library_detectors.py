"""Detectors of transformers and torchvision as teachers: their boxes are those of the library's own decoding."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from distill_mtl.networks.boxes import from_answer
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher


def test_a_folder_of_transformers_detects(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    names = {0: "cat", 1: "dog", 2: "owl"}
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[64, 64],
        patch_size=16, num_detection_tokens=12, id2label=names, label2id={name: at for at, name in names.items()},
    )  # fmt: skip
    network = transformers.YolosForObjectDetection(config).eval()
    processor = transformers.YolosImageProcessor(size={"height": 64, "width": 64})
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    teacher = load_teacher(TeacherSection(transformers=str(tmp_path)), task="pets", layers=[None])
    assert (teacher.card.kind, teacher.card.classes) == ("heatmap", ("cat", "dog", "owl"))
    assert teacher.card.assumed == ()
    images = torch.rand(2, 3, 64, 64)
    labels, scores, _ = from_answer(teacher(images).logits)
    with torch.no_grad():
        raw = network(pixel_values=teacher.network.preprocess(images))
    expected = processor.post_process_object_detection(raw, threshold=0.0, target_sizes=[(64, 64)] * 2)
    for row, theirs in enumerate(expected):
        best = theirs["scores"].argmax()
        assert torch.allclose(scores[row, 0], theirs["scores"][best], atol=1e-4)
        assert int(labels[row, 0]) == int(theirs["labels"][best])


def test_a_detector_of_torchvision_names_its_classes_without_the_background(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = get_model("ssdlite320_mobilenet_v3_large", weights_backbone=None, num_classes=91).eval()
    for layer in network.head.classification_head.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:
            torch.nn.init.normal_(layer.bias, std=3.0)  # else all its scores are alike
    torch.save(network.state_dict(), tmp_path / "ssd.pth")
    section = TeacherSection(
        torchvision="ssdlite320_mobilenet_v3_large.COCO_V1", weights=str(tmp_path / "ssd.pth")
    )
    teacher = load_teacher(section, task="things")
    assert (teacher.card.kind, teacher.card.classes[:2]) == ("heatmap", ("person", "bicycle"))
    assert (teacher.card.inputs.size, teacher.card.assumed) == ((320, 320), ())
    images = torch.rand(1, 3, 320, 320)
    labels, scores, _ = from_answer(teacher(images).logits)
    with torch.no_grad():
        (theirs,) = network(list(images))
    order = theirs["scores"].argsort(descending=True)[:5]
    assert theirs["scores"][order[0]] > 0.1
    assert torch.allclose(scores[0, :5], theirs["scores"][order], atol=1e-4)
    assert torch.equal(labels[0, :5], theirs["labels"][order] - 1)
