"""What `auto` stands for is decided once, written into the resolved recipe, and never changes an older run's."""

from pathlib import Path
from typing import Any

import pytest
import timm
import yaml

from distill_mtl.networks import bf16
from distill_mtl.recipe import Recipe, dump_recipe, load_recipe
from distill_mtl.students.student import FAMILIES, Trunk
from distill_mtl.training import processes
from distill_mtl.training.optimizer import first_guess, hidden_matrices, settle_average, settle_optimizer
from distill_mtl.training.processes import settle_precision

BEFORE = Path(__file__).parent / "resolved_november_2026.yaml"
"""recipe.resolved.yaml of the quickstart, as it was before `optimizer` had a name (5bc2b78)."""
RESNET, VIT, MOBILE = "test_resnet", "test_vit", "mobilenetv3_small_050"


def _recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "student": {"model": "resnet18", "init": "random"},
            "tasks": {"breed": {"classes": 4}},
            "data": {"breed": {"shards": "a.tar", "labels": {"breed": {}}}},
            **sections,
        }
    )


def _trunk(model: str) -> Trunk:
    args = {"img_size": 32, "patch_size": 4} if model == VIT else {}
    return FAMILIES["timm"].create(model, args, (32, 32), pretrained=False)


def test_an_older_run_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(processes, "_on_cpu", lambda: True)
    trunk = _trunk(RESNET)
    recipe = settle_average(settle_optimizer(settle_precision(load_recipe(BEFORE), trunk), trunk), 1500)
    before, now = yaml.safe_load(BEFORE.read_text()), yaml.safe_load(dump_recipe(recipe))
    assert before["training"].pop("precision") == "auto"  # fp32 on every CPU
    assert now["training"].pop("precision") == "fp32"
    for task in before["tasks"]:
        assert before["tasks"][task]["teacher"].pop("precision") == "auto"
        assert now["tasks"][task]["teacher"].pop("precision") == "fp32"
    assert list(_changed(before, now)) == []
    assert {key: now["optimizer"][key] for key in ("name", "schedule")} == {
        "name": "adamw",
        "schedule": "cosine",
    }


def _changed(before: Any, now: Any, path: str = "") -> Any:
    """Dotted paths of values that are not as they were; keys that are new do not count."""
    if isinstance(before, dict):
        for key, value in before.items():
            yield from _changed(value, now.get(key) if isinstance(now, dict) else None, f"{path}.{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _changed(one, other, f"{path}.{number}")
    elif before != now:
        yield path


@pytest.mark.parametrize(
    ("lr", "model", "rows", "name"),
    [
        ("auto", RESNET, 128, "muon"),
        ("auto", RESNET, 8, "adamw"),  # so few rows that orthogonal steps would cost more than they do
        ("auto", VIT, 128, "muon"),
        (1e-3, RESNET, 128, "adamw"),
        (1e-3, VIT, 128, "adamw"),
    ],
)
def test_the_optimizer_follows_the_trunk_unless_a_rate_is_given(
    lr: Any, model: str, rows: int, name: str
) -> None:
    recipe = _recipe(optimizer={"lr": lr}, training={"batch_size": rows})
    settled = settle_optimizer(recipe, _trunk(model)).optimizer
    assert settled.name == name
    left = {key for key, value in settled if value == "auto"}
    assert left == ({"lr"} if lr == "auto" else set())


@pytest.mark.parametrize(("name", "clip"), [("sgd", None), ("adamw", 1.0), ("muon", 1.0)])
def test_only_sgd_is_not_clipped(name: str, clip: float | None) -> None:
    recipe = _recipe(optimizer={"name": name})
    assert settle_optimizer(recipe, _trunk(RESNET)).training.clip == clip
    given = _recipe(optimizer={"name": name}, training={"clip": 3.0})
    assert settle_optimizer(given, _trunk(RESNET)).training.clip == 3.0


def test_settling_twice_changes_nothing() -> None:
    trunk = _trunk(RESNET)
    once = settle_optimizer(_recipe(optimizer={"name": "muon", "warmup": 0.2}), trunk)
    assert settle_optimizer(once, trunk) == once
    assert once.optimizer.warmup == 0.2


@pytest.mark.parametrize(("name", "ratio"), [("sgd", 2.0), ("adamw", 2**0.5), ("muon", 2**0.5)])
def test_guesses_grow_with_the_batch_and_shrink_for_a_trained_trunk(name: str, ratio: float) -> None:
    def guess(rows: int, init: str) -> float:
        student = {"model": "resnet18", "init": init}
        recipe = _recipe(student=student, optimizer={"name": name}, training={"batch_size": rows})
        return first_guess(recipe, timm.create_model(RESNET))

    assert guess(128, "random") / guess(64, "random") == pytest.approx(ratio)
    assert guess(128, "pretrained") == pytest.approx(0.3 * guess(128, "random"))
    assert guess(2**20, "random") < 1


@pytest.mark.parametrize(
    ("model", "has_bf16", "wanted", "taken"),
    [
        (RESNET, True, "auto", "bf16"),
        (RESNET, False, "auto", "fp32"),
        (RESNET, True, "fp32", "fp32"),
        (RESNET, False, "bf16", "bf16"),
        (VIT, True, "auto", "fp32"),
        (MOBILE, True, "auto", "fp32"),
    ],
)
def test_auto_takes_bf16_where_kernels_are_faster(
    model: str, has_bf16: bool, wanted: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bf16, "cpu_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(processes, "_on_cpu", lambda: True)
    recipe = settle_precision(_recipe(training={"precision": wanted}), timm.create_model(model))
    assert recipe.training.precision == taken


def test_muon_steps_no_table_of_positions() -> None:
    trunk = _trunk(VIT)
    names = {id(parameter): name for name, parameter in trunk.named_parameters()}
    hidden = [names[id(parameter)] for parameter in hidden_matrices(trunk)]
    assert any(name.endswith("attn.qkv.weight") for name in hidden)
    assert not [name for name in hidden if "embed" in name or "token" in name]
