"""Our boxes are those that each tool's own decoding gives, for its own networks, built small from a configuration."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, batched_nms

from distill_mtl.networks.box_form import read_boxes
from distill_mtl.networks.box_recognition import find_reading
from distill_mtl.networks.boxes import ScoredBoxes, from_answer
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.runtime import named
from distill_mtl.recipe.schema import InputSection, TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher

SIDE = 64
CONTRACT = InputContract((SIDE, SIDE), (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Trunk(nn.Module):
    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def anchors() -> AnchorGenerator:
    return AnchorGenerator(((8, 16, 32),), ((0.5, 1.0, 2.0),))


def two_stages() -> nn.Module:
    return FasterRCNN(
        Trunk(),
        min_size=SIDE,
        max_size=SIDE,
        rpn_anchor_generator=anchors(),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
        box_head=TwoMLPHead(8 * 9, 16),
        box_predictor=FastRCNNPredictor(16, 4),
        rpn_post_nms_top_n_test=30,
        box_detections_per_img=20,
    ).eval()


def one_stage() -> nn.Module:
    network = RetinaNet(
        Trunk(),
        num_classes=4,
        min_size=SIDE,
        max_size=SIDE,
        anchor_generator=anchors(),
        score_thresh=0.0,
        detections_per_img=20,
    ).eval()
    for layer in network.head.classification_head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.3)  # else all its scores are alike
    return network


def assert_same(found: ScoredBoxes, row: int, boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    """Our boxes of a row are these, in the order of their scores."""
    number = int((found.labels[row] >= 0).sum())
    order = scores.argsort(descending=True, stable=True)
    assert number == min(len(order), 100)
    order = order[:number]
    torch.testing.assert_close(found.scores[row, :number], scores[order])
    torch.testing.assert_close(found.boxes[row, :number], boxes[order], atol=1e-3, rtol=1e-4)
    assert torch.equal(found.labels[row, :number], labels[order])


@pytest.mark.parametrize("make", [two_stages, one_stage])
def test_torchvisions_own_detectors(make: Any) -> None:
    network, images = make(), torch.rand(3, 3, SIDE, SIDE)
    raw = named(network(images), Path("network"))
    reading = find_reading(raw, CONTRACT.size)
    assert reading is not None
    assert (reading.form, reading.background) == ("torchvision", "first")
    found = read_boxes(raw, reading, CONTRACT, classes=3)
    for row, theirs in enumerate(network(list(images))):
        real = theirs["labels"] > 0  # RetinaNet has a logit for the background too
        assert_same(found, row, theirs["boxes"][real], theirs["scores"][real], theirs["labels"][real] - 1)


def test_torchvisions_export_of_one_picture_is_a_teacher_of_any_number(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    network, images = two_stages(), torch.rand(3, 3, SIDE, SIDE)
    # Its lists have lengths of their own, which the newer exporter cannot record.
    torch.onnx.export(network, (images[:1],), tmp_path / "two.onnx", dynamo=False)
    section = TeacherSection(
        path=str(tmp_path / "two.onnx"), classes=["a", "b", "c"], input=InputSection(size=SIDE)
    )
    teacher = load_teacher(section, task="things", layers=(None,))
    labels, scores, _ = from_answer(teacher(images).logits)
    for row, theirs in enumerate(network(list(images))):
        number = len(theirs["scores"])
        torch.testing.assert_close(scores[row, :number], theirs["scores"], atol=1e-4, rtol=1e-3)
        assert (labels[row, number:] == -1).all()


def transformers() -> Any:
    return pytest.importorskip("transformers")


def yolos() -> tuple[nn.Module, Any]:
    library = transformers()
    config = library.YolosConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[SIDE, SIDE],
        patch_size=16,
        num_detection_tokens=12,
        num_labels=3,
    )
    return library.YolosForObjectDetection(config).eval(), library.YolosImageProcessor()


def rt_detr() -> tuple[nn.Module, Any]:
    library = transformers()
    trunk = library.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1] * 4,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = library.RTDetrConfig(
        backbone_config=trunk,
        d_model=16,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        num_queries=12,
        decoder_in_channels=[16] * 3,
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_labels=3,
        num_denoising=0,
    )
    return library.RTDetrForObjectDetection(config).eval(), library.RTDetrImageProcessor()


@pytest.mark.parametrize(("make", "background"), [(yolos, "last"), (rt_detr, "none")])
def test_the_detr_family_of_transformers(make: Any, background: str) -> None:
    """YOLOS decides by a softmax with "no object" as DETR does, RT-DETR by sigmoids."""
    network, processor = make()
    returned, view = network(torch.rand(2, 3, SIDE, SIDE)), (48, 80)
    raw = named(returned, Path("network"))
    reading = find_reading(raw, CONTRACT.size, classes=3)
    assert reading is not None
    assert (reading.form, reading.background, reading.corners) == ("detr", background, "cxcywh")
    found = read_boxes(raw, reading, CONTRACT, classes=3, view=view)
    decoded = processor.post_process_object_detection(returned, threshold=0.0, target_sizes=[view] * 2)
    for row, theirs in enumerate(decoded):
        ours = ScoredBoxes(*(part[:, : len(theirs["scores"])] for part in found))
        assert_same(ours, row, theirs["boxes"], theirs["scores"], theirs["labels"])


def test_yolos_exported_program_is_the_network_itself(tmp_path: Path) -> None:
    network, _ = yolos()

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = network

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            returned = self.inside(images)
            return {"logits": returned.logits, "pred_boxes": returned.pred_boxes}

    images = torch.rand(2, 3, SIDE, SIDE)
    torch.export.save(torch.export.export(Detector(), (images,)), tmp_path / "yolos.pt2")
    section = TeacherSection(path=str(tmp_path / "yolos.pt2"), classes=["a", "b", "c"], trust=True)
    teacher = load_teacher(section, task="things")
    assert teacher.card.inputs.mean == pytest.approx((0.485, 0.456, 0.406))  # the family's own, assumed
    plain = teacher.with_inputs(CONTRACT)
    raw = named(network(images), Path("network"))
    reading = find_reading(raw, CONTRACT.size, classes=3)
    assert reading is not None
    labels, scores, _ = from_answer(plain(images).logits)
    ours = read_boxes(raw, reading, CONTRACT, classes=3)
    torch.testing.assert_close(scores, ours.scores, atol=1e-5, rtol=1e-4)
    assert torch.equal(labels, ours.labels)


@pytest.mark.parametrize("form", ["yolo", "yolov5"])
def test_yolos_raw_rows_as_its_own_tools_decode_them(form: str) -> None:
    """Corners from centres, scores times objectness in v5, suppression by class: written here once more."""
    generator = torch.Generator().manual_seed(0)
    places = 84 if form == "yolo" else 252
    centre, sides = (torch.rand(2, places, 2, generator=generator) * scale for scale in (SIDE, SIDE / 2))
    columns = torch.rand(2, places, 3 if form == "yolo" else 4, generator=generator)
    rows = torch.cat([centre, sides, columns], 2)
    raw = {"output0": rows.transpose(1, 2) if form == "yolo" else rows}
    reading = find_reading(raw, CONTRACT.size)
    assert reading is not None
    assert (reading.form, reading.corners, reading.unit) == (form, "cxcywh", "pixels")
    found = read_boxes(raw, reading, CONTRACT)
    for row in range(2):
        scores = columns[row] if form == "yolo" else columns[row, :, 1:] * columns[row, :, :1]
        place, label = (scores >= 0.01).nonzero(as_tuple=True)
        score = scores[place, label]
        boxes = torch.cat([centre - sides / 2, centre + sides / 2], 2)[row][place]
        kept = batched_nms(boxes, score, label, 0.7 if form == "yolo" else 0.45)
        assert_same(found, row, boxes[kept], score[kept], label[kept])


def test_a_folder_of_transformers_is_a_detector_without_a_word_more(tmp_path: Path) -> None:
    network, processor = yolos()
    network.config.id2label = {0: "cat", 1: "dog", 2: "owl"}
    network.save_pretrained(tmp_path)
    type(processor)(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    teacher = load_teacher(TeacherSection(transformers=str(tmp_path)), task="pets", layers=(None,))
    assert (teacher.card.kind, teacher.card.classes) == ("heatmap", ("cat", "dog", "owl"))
    assert teacher.card.inputs.size == (SIDE, SIDE)
    assert teacher.card.assumed == ()
    images = torch.rand(2, 3, SIDE, SIDE)
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (teacher.card.inputs.mean, teacher.card.inputs.std)
    )
    returned = network((images - mean) / std)
    decoded = processor.post_process_object_detection(
        returned, threshold=0.0, target_sizes=[(SIDE, SIDE)] * 2
    )
    labels, scores, _ = from_answer(teacher(images).logits)
    for row, theirs in enumerate(decoded):
        order = theirs["scores"].argsort(descending=True)
        torch.testing.assert_close(scores[row, : len(order)], theirs["scores"][order], atol=1e-5, rtol=1e-4)
        assert torch.equal(labels[row, : len(order)], theirs["labels"][order])


def test_a_detector_of_torchvision_by_name(tmp_path: Path) -> None:
    network = get_model(
        "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4
    ).eval()
    save_file(network.state_dict(), tmp_path / "ssd.safetensors")
    section = TeacherSection(
        torchvision="ssdlite320_mobilenet_v3_large",
        weights=str(tmp_path / "ssd.safetensors"),
        args={"num_classes": 4},
        classes=["a", "b", "c"],
        input=InputSection(size=SIDE),
    )
    teacher = load_teacher(section, task="things")
    assert teacher.card.kind == "heatmap"
    assert teacher.card.inputs.mean == (0.0,) * 3
    images = torch.rand(2, 3, SIDE, SIDE)
    _, scores, _ = from_answer(teacher(images).logits)
    for row, theirs in enumerate(network(list(images))):
        number = min(100, len(theirs["scores"]))
        torch.testing.assert_close(scores[row, :number], theirs["scores"][:number], atol=1e-5, rtol=1e-4)
