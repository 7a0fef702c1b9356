"""A cache that is missing, stale, cut or foreign is refused, and the message says what changed."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cache_world
import numpy as np
import pytest
import toy_world
import toys
from safetensors.numpy import save_file

from distill_mtl.errors import CacheError, UserError
from distill_mtl.jobs.cache import write_cache
from distill_mtl.targets.sidecar import Sidecar


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once, with two views; tests change copies of it."""
    return cache_world.cached(tmp_path_factory.mktemp("kept") / "world", "targets.views=2")


@pytest.fixture
def recipe(kept: Path) -> Path:
    """The world in its place, put back as it was after each test."""
    world = kept.parent
    backup = world.with_name("backup")
    shutil.copytree(world, backup)
    yield kept
    shutil.rmtree(world)
    backup.rename(world)


def refusal(recipe: Path, *overrides: str) -> str:
    with pytest.raises(CacheError) as caught:
        cache_world.parts(recipe, "targets.from=cached", "targets.views=2", *overrides)
    assert "`distill-mtl cache`" in str(caught.value)
    return str(caught.value)


def hue(recipe: Path) -> Path:
    """What the teacher of hue says about its own first shard."""
    return next(recipe.parent.glob("hue-train.hue.*.safetensors"))


def test_a_whole_cache_is_used(recipe: Path) -> None:
    parts = cache_world.parts(recipe, "targets.from=cached", "targets.views=2")
    assert parts.cached is not None
    assert "targets: cached, 2 views per row" in parts.taught


def test_nothing_cached_names_shards_and_teachers(recipe: Path) -> None:
    for sidecar in cache_world.sidecars(recipe.parent):
        sidecar.unlink()
    message = refusal(recipe)
    assert "tasks.hue.teacher: the cached targets of 4 of 4 shards" in message
    assert f"nothing is cached for {recipe.parent}/hue-train.tar" in message
    assert "tasks.shape.teacher" in message


def test_one_missing_file_is_named(recipe: Path) -> None:
    hue(recipe).unlink()
    message = refusal(recipe)
    assert "tasks.hue.teacher: the cached targets of 1 of 4 shards" in message
    assert "tasks.shape" not in message


def test_other_weights_of_a_teacher_are_told_with_both_hashes(recipe: Path) -> None:
    then = Sidecar(hue(recipe)).metadata["teacher"]
    toys.toy_teacher_folder(recipe.parent / "teachers" / "hue", "hue", toys.classification(3), seed=9)
    message = refusal(recipe)
    assert "the teacher's weights changed" in message
    assert str(recipe.parent / "teachers" / "hue" / "model.safetensors") in message
    assert message.split("cached from sha256 ")[1][:8] in then
    assert "tasks.shape" not in message


def _rewrite(recipe: Path) -> None:
    """The same rows in another order, as another program may write them."""
    shard = recipe.parent / "hue-train.tar"
    rows = toy_world.read_shard(shard)
    toy_world.write_rows(shard, rows[::-1])


def _repaint(recipe: Path) -> None:
    """One picture of another colour, in a shard of the same size."""
    shard = recipe.parent / "hue-train.tar"
    rows = toy_world.read_shard(shard)
    toy_world.write_rows(shard, [{**rows[0], "png": toy_world.png(np.zeros((8, 8, 3), np.uint8))}, *rows[1:]])


def _enlarge(recipe: Path) -> None:
    """A member that nobody reads."""
    shard = recipe.parent / "hue-train.tar"
    rows = toy_world.read_shard(shard)
    toy_world.write_rows(shard, [*rows[:-1], {**rows[-1], "note": b"n" * 20_000}])


CHANGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "views": (lambda recipe: None, ("targets.views=4",), "targets.views: 2 in the cache, 4 now"),
    "seed": (lambda recipe: None, ("seed=1",), "seed: 0 in the cache, 1 now"),
    "numbers": (
        lambda recipe: None,
        ("targets.features=int8",),
        "targets.features: fp16 in the cache, int8 now",
    ),
    "augmentation": (
        lambda recipe: None,
        ("data.hue.augment.flip=false",),
        "augment.flip: true in the cache, false now",
    ),
    "image size": (
        lambda recipe: None,
        ("student.input_size=16",),
        "image size: [8, 8] in the cache, [16, 16] now",
    ),
    "layers": (
        lambda recipe: None,
        ("tasks.hue.hints=[{teacher: first}]",),
        'hidden layers changed: ["second"] in the cache, ["first"] now',
    ),
    "form": (
        lambda recipe: None,
        ("tasks.hue.hints=[{form: map}]",),
        'hidden features: {"second": "pooled"} in the cache, {"second": "map"} now',
    ),
    "order of rows": (_rewrite, (), "its training rows have other keys, or another order"),
    "shard": (_repaint, (), "other pictures of the shard are read, or it was written anew since"),
    "size of the shard": (_enlarge, (), "the shard had 174080 bytes when it was cached and has"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_told(recipe: Path, change: str) -> None:
    make, overrides, clause = CHANGES[change]
    make(recipe)
    assert clause in refusal(recipe, *overrides)


def test_rows_cut_off_by_hash_are_counted(recipe: Path) -> None:
    message = refusal(recipe, "data.hue.split.test=null", "data.hue.split.validation=null")
    assert "its training rows were 40 when it was cached and are 3" in message


def test_a_file_that_is_cut_is_named_with_its_sizes(recipe: Path) -> None:
    path = hue(recipe)
    path.write_bytes(path.read_bytes()[:-5])
    message = refusal(recipe)
    assert f"{path} is cut, damaged or no sidecar" in message
    assert f"it has {path.stat().st_size} bytes and should have" in message


def test_a_file_of_another_program_is_foreign(recipe: Path) -> None:
    path = hue(recipe)
    save_file({"x": np.zeros(3, np.float32)}, path)
    assert f"{path}: it was not written by `distill-mtl cache`" in refusal(recipe)
    save_file({"x": np.zeros(3)}, path)
    assert f"{path} is cut, damaged or no sidecar: it holds numbers of type F64" in refusal(recipe)


def test_a_sidecar_under_the_name_of_another_is_refused(recipe: Path) -> None:
    path = hue(recipe)
    other = next(recipe.parent.glob("shape-train.hue.*.safetensors"))
    shutil.copy(other, path)
    message = refusal(recipe)
    assert f"  {path}: " in message
    assert "its training rows have other keys, or another order" in message
    assert "name of the source: shape in the cache, hue now" in message


def test_teachers_that_saw_other_views_of_a_row_are_refused(recipe: Path) -> None:
    """As two versions of the program would write them, if one drew boxes in another way."""
    path = hue(recipe)
    sidecar = Sidecar(path)
    hashed = sidecar.metadata["boxes.sha256"].encode()
    path.write_bytes(path.read_bytes().replace(hashed, b"0" * len(hashed)))
    assert "were written under different views" in refusal(recipe)


def test_auto_trains_live_where_the_cache_does_not_fit_and_says_why(recipe: Path) -> None:
    hue(recipe).unlink()
    parts = cache_world.parts(recipe, "targets.views=2")
    assert parts.cached is None
    assert parts.recipe.targets.from_ == "live"
    assert re.search(r"targets: live, 2 views.*\(auto: the cache cannot be used", parts.taught)
    assert "1 of 4 shards" in parts.taught
    assert "auto: nothing is cached" in cache_world.parts(_without_cache(recipe)).taught


def _without_cache(recipe: Path) -> Path:
    for sidecar in cache_world.sidecars(recipe.parent):
        sidecar.unlink()
    return recipe


def test_the_plain_view_alone_depends_on_no_seed_and_no_augmentation(tmp_path: Path) -> None:
    recipe = cache_world.cached(tmp_path / "world")
    changed = ("targets=cached", "seed=5", "data.hue.augment.crop=[0.2, 0.9]")
    assert cache_world.parts(recipe, *changed).cached is not None


def test_caches_of_several_recipes_lie_side_by_side(recipe: Path) -> None:
    write_cache(recipe, ["targets.views=2", "targets.features=int8"])
    assert len(cache_world.sidecars(recipe.parent)) == 16
    for features in ("fp16", "int8"):
        overrides = ("targets.from=cached", "targets.views=2", f"targets.features={features}")
        assert cache_world.parts(recipe, *overrides).cached is not None


def test_rows_of_a_source_without_labels_are_cached_too(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    recipe.write_text(recipe.read_text() + f"data: {{pool: {{shards: {recipe.parent}/pool-train.tar}}}}\n")
    write_cache(recipe)
    assert list(recipe.parent.glob("pool-train.hue.*.safetensors"))
    assert cache_world.parts(recipe, "targets=cached").cached is not None


def test_a_teacher_that_is_not_there_is_told_by_its_folder(recipe: Path) -> None:
    """Looking for its cached answers comes first, and must not stumble."""
    with pytest.raises(UserError, match="no such folder"):
        cache_world.parts(recipe, f"tasks.hue.teacher.path={recipe.parent}/nowhere")
    with pytest.raises(UserError, match="does not exist"):
        cache_world.parts(
            recipe,
            f"tasks.hue.teacher.path={recipe.parent}/nowhere",
            f"tasks.hue.teacher.sha256={'a' * 64}",
        )
