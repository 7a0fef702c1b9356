"""The second story's data: rendered alike everywhere, with labels that agree with the geometry."""

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import webdataset
from PIL import Image

from distill_mtl.data.batch import ProcessShare
from distill_mtl.data.shard_files import find_shards
from distill_mtl.demos import built_in
from distill_mtl.demos.scenes import scene_rows as shards
from distill_mtl.demos.scenes.render import FLOOR, NOTHING, SIDE, SOLIDS, WALL, lit, picture, trace
from distill_mtl.demos.scenes.scene import SHAPES, Scene
from distill_mtl.demos.scenes.scene_rows import (
    ATTRIBUTES,
    CLASSES,
    LEAST_PIXELS,
    attributes,
    class_pixels,
    depth_pixels,
    normal_pixels,
    visible_solids,
)
from distill_mtl.errors import ShardError
from distill_mtl.splits import SPLITS

SCENES = [shards.scene("depth", "validation", row) for row in range(40)]


def rays(scene: Scene) -> np.ndarray:
    """[3, 64, 64], from the definition of a pinhole camera."""
    camera, middles = scene.camera, (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    right, up, forward = (np.array(axis) for axis in (camera.right, camera.up, camera.forward))
    return (
        forward[:, None, None]
        + camera.spread * middles[None, None, :] * right[:, None, None]
        - camera.spread * middles[None, :, None] * up[:, None, None]
    )


def in_camera(scene: Scene, vectors: np.ndarray) -> np.ndarray:
    camera = scene.camera
    return np.array([camera.right, camera.up, -np.array(camera.forward)]) @ vectors


def test_the_bytes_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    for row in range(12):
        scene = shards.scene("normals", "train", row)
        surfaces = trace(scene, SIDE)
        digest.update(picture(scene).tobytes())
        digest.update(depth_pixels(surfaces).astype("<u2").tobytes())
        digest.update(normal_pixels(scene, surfaces).tobytes())
        digest.update(class_pixels(scene, surfaces).tobytes())
        digest.update(bytes(attributes(scene, surfaces)))
    assert digest.hexdigest() == "f4bd5183f513f171e93d5fdc374b987c9986f8534238387bb66a5bf7b64c37b7"


def test_no_two_rows_of_any_sets_and_splits_show_the_same_picture() -> None:
    pictures = {
        picture(shards.scene(name, split, row)).tobytes()
        for name in shards.SETS
        for split in SPLITS
        for row in range(4)
    }
    assert len(pictures) == 4 * len(shards.SETS) * len(SPLITS)


def test_the_depth_of_the_floor_is_where_the_ray_meets_it() -> None:
    for scene in SCENES:
        surfaces = trace(scene, SIDE)
        floor = surfaces.what == FLOOR
        expected = 1000 * scene.camera.eye.z / -rays(scene)[2][floor]
        assert floor.any()
        np.testing.assert_allclose(depth_pixels(surfaces)[floor], expected, atol=0.51)


def test_the_normals_of_floor_and_wall_are_constant_and_the_planes_own() -> None:
    for scene in SCENES:
        surfaces = trace(scene, SIDE)
        pixels = normal_pixels(scene, surfaces)
        for what, plane in zip((FLOOR, WALL), scene.planes, strict=False):
            seen = pixels[surfaces.what == what]
            expected = in_camera(scene, np.array(plane.normal))
            np.testing.assert_allclose(
                2 * (seen / 255) - 1, np.broadcast_to(expected, seen.shape), atol=0.005
            )
            assert len(seen) == 0 or len(np.unique(seen, axis=0)) == 1


def test_spheres_have_the_depth_and_the_normals_of_their_equation() -> None:
    checked = 0
    for scene in SCENES:
        surfaces = trace(scene, SIDE)
        places = np.array(scene.camera.eye)[:, None, None] + surfaces.depth * rays(scene)
        pixels = 2 * normal_pixels(scene, surfaces).astype(float) / 255 - 1
        for number, solid in enumerate(scene.solids):
            seen = surfaces.what == SOLIDS + number
            if solid.shape != "sphere" or solid.clutter or not seen.any():
                continue
            offsets = places[:, seen] - np.array(solid.centre)[:, None]
            np.testing.assert_allclose(np.linalg.norm(offsets, axis=0), solid.half.x, atol=1e-9)
            np.testing.assert_allclose(pixels[seen].T, in_camera(scene, offsets / solid.half.x), atol=0.005)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("shape", SHAPES)
def test_entries_lie_on_the_shape_and_no_point_of_the_ray_before_them_is_inside(shape: str) -> None:
    inside = {
        "sphere": lambda x, y, z: x * x + y * y + z * z <= 1,
        "box": lambda x, y, z: (abs(x) <= 1) & (abs(y) <= 1) & (abs(z) <= 1),
        "cylinder": lambda x, y, z: (x * x + y * y <= 1) & (abs(z) <= 1),
        "cone": lambda x, y, z: (x * x + y * y <= ((1 - z) / 2) ** 2) & (abs(z) <= 1),
    }[shape]
    chance = np.random.default_rng(0)
    origins = chance.normal(size=(3, 3000))
    origins = 4 * origins / np.linalg.norm(origins, axis=0)
    directions = chance.uniform(-1.3, 1.3, (3, 3000)) - origins
    with np.errstate(all="ignore"):
        times, normals = SHAPES[shape](origins, directions)
    steps = np.linspace(0, 3, 3001)
    within = inside(*(origins[..., None] + steps * directions[..., None]))
    first = np.where(within.any(axis=1), steps[within.argmax(axis=1)], np.inf)
    hit = np.isfinite(first)
    assert 500 < hit.sum() < 2900
    # Between two steps a ray may cut off a corner, so a hit without a step inside is not a mistake.
    assert np.isfinite(times[hit]).all()
    assert (first[hit] - times[hit] >= -1e-9).all()
    assert np.median(first[hit] - times[hit]) < 1e-3
    assert np.count_nonzero(np.isfinite(times) & ~hit) < 30
    # The normal points out of it and against the ray: a small step along it leaves the shape.
    places = (origins + times * directions)[:, hit]
    lengths = np.linalg.norm(normals[:, hit], axis=0)
    assert not inside(*(places + 1e-6 * normals[:, hit] / lengths)).any()
    assert (np.sum(normals[:, hit] * directions[:, hit], axis=0) <= 0).all()


def test_what_is_in_a_solids_window_is_all_there_is_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    windowed = [trace(scene, SIDE).what for scene in SCENES]
    everything = (slice(0, SIDE), slice(0, SIDE))
    monkeypatch.setattr("distill_mtl.demos.scenes.scene.Camera.window", lambda *_: everything)
    for scene, what in zip(SCENES, windowed, strict=True):
        assert np.array_equal(trace(scene, SIDE).what, what)


def test_depth_and_normals_are_labelled_on_the_same_pixels() -> None:
    skies = 0
    for scene in SCENES:
        surfaces = trace(scene, SIDE)
        labelled = surfaces.what != NOTHING
        assert np.array_equal(depth_pixels(surfaces) > 0, labelled)
        assert np.array_equal(normal_pixels(scene, surfaces).any(axis=2), labelled)
        assert scene.wall is None or labelled.all()
        skies += not labelled.all()
    assert skies > 5


def test_boxes_are_tight_around_the_pixels_of_their_class() -> None:
    for scene in SCENES:
        surfaces = trace(scene, SIDE)
        classes = class_pixels(scene, surfaces)
        found = visible_solids(scene, surfaces)
        for solid in found:
            left, top, width, height = solid.box
            mask = surfaces.what == SOLIDS + solid.number
            inside = mask[top : top + height, left : left + width]
            assert inside.sum() == mask.sum() == solid.pixels >= LEAST_PIXELS
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            assert set(classes[mask]) == {CLASSES.index(scene.solids[solid.number].shape)}
        shown = {scene.solids[solid.number].shape for solid in found}
        unseen = [name for name in CLASSES[1:] if name not in shown]
        assert all((classes == CLASSES.index(name)).sum() < 5 * LEAST_PIXELS for name in unseen)


def test_pebbles_sky_floor_and_wall_are_background() -> None:
    pebbles = 0
    for scene in SCENES:
        surfaces = trace(scene, SIDE)
        classes = class_pixels(scene, surfaces)
        assert not classes[surfaces.what < SOLIDS].any()
        for number, solid in enumerate(scene.solids):
            if solid.clutter:
                assert not classes[surfaces.what == SOLIDS + number].any()
                pebbles += 1
    assert pebbles > 20


def test_solids_stand_on_the_floor_apart_from_each_other_and_the_wall() -> None:
    for scene in SCENES:
        for number, solid in enumerate(scene.solids):
            assert solid.centre.z == solid.half.z
            if scene.wall is not None:
                assert (solid.centre - scene.wall.point).dot(scene.wall.normal) > max(
                    solid.half.x, solid.half.y
                )
            for other in scene.solids[:number]:
                apart = np.hypot(solid.centre.x - other.centre.x, solid.centre.y - other.centre.y)
                assert apart > max(solid.half.x, solid.half.y) + max(other.half.x, other.half.y)


def test_a_sphere_throws_its_shadow_where_the_line_to_the_light_passes_it() -> None:
    scene = next(scene for scene in SCENES if scene.solids[0].shape == "sphere")
    ball = scene.solids[0]
    alone = replace(scene, solids=(ball,))
    x, y = np.meshgrid(np.linspace(-3, 3, 60), np.linspace(1, 7, 60))
    places = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)])
    to_light = np.array(scene.light.place)[:, None] - places
    free = lit(alone, places, to_light, np.full(x.size, FLOOR, np.int8))
    offsets = np.array(ball.centre)[:, None] - places
    distance = np.linalg.norm(np.cross(offsets.T, to_light.T), axis=1) / np.linalg.norm(to_light, axis=0)
    assert np.array_equal(free, distance >= ball.half.x)
    assert 0 < np.count_nonzero(~free) < 2000


def test_shadows_darken_the_picture() -> None:
    scene = next(scene for scene in SCENES if scene.hard and scene.wall is None)
    bare = replace(scene, solids=())
    floor = (trace(scene, SIDE).what == FLOOR) & (trace(bare, SIDE).what == FLOOR)
    darker = picture(bare).astype(int).sum(axis=2) - picture(scene).astype(int).sum(axis=2)
    assert np.count_nonzero(darker[floor] > 60) > 20
    assert np.count_nonzero(darker[floor] < -60) == 0


def test_every_question_is_open() -> None:
    answers = []
    for row in range(250):
        scene = shards.scene("attributes", "train", row)
        answers.append(attributes(scene, trace(scene, SIDE)))
    shares = dict(zip(ATTRIBUTES, np.mean(answers, axis=0), strict=True))
    assert all(0.1 < share < 0.9 for share in shares.values()), shares
    assert len(np.unique(answers, axis=1).T) == len(ATTRIBUTES), "no question repeats another"


@pytest.fixture
def _few_rows(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(shards, "ROWS", {"train": 5, "validation": 4, "test": 3})
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path_factory.mktemp("few")))


@pytest.mark.usefixtures("_few_rows")
@pytest.mark.parametrize("name", shards.SETS)
def test_each_set_has_one_kind_of_label_that_reads_back(name: str) -> None:
    (shard,) = find_shards(f"scenes:{name}-train", "data.x.shards")
    rows = list(webdataset.WebDataset(str(shard.path), shardshuffle=False))
    assert [sample["__key__"] for sample in rows] == [f"{name}-train-{row:05d}" for row in range(5)]
    for row, sample in enumerate(rows):
        scene = shards.scene(name, "train", row)
        surfaces = trace(scene, SIDE)
        image, label = sample["png"], sample[shards.LABELS[name][0]]
        assert {ending for ending in sample if not ending.startswith("_")} == {"png", shards.LABELS[name][0]}
        assert np.array_equal(Image.open(io.BytesIO(image)), picture(scene))
        match name:
            case "attributes":
                assert json.loads(label) == attributes(scene, surfaces)
            case "objects":
                boxes = [(entry["class"], tuple(entry["box"])) for entry in json.loads(label)]
                assert boxes == [
                    (scene.solids[solid.number].shape, solid.box) for solid in visible_solids(scene, surfaces)
                ]
            case _:
                pixels = {
                    "depth": depth_pixels(surfaces),
                    "normals": normal_pixels(scene, surfaces),
                    "segment": class_pixels(scene, surfaces),
                }[name]
                read = np.asarray(Image.open(io.BytesIO(label)))
                assert read.dtype == pixels.dtype or read.dtype == np.int32
                assert np.array_equal(read, pixels)


@pytest.mark.usefixtures("_few_rows")
def test_a_shard_is_made_once_and_then_found_by_the_other_processes() -> None:
    (first,) = find_shards("scenes:objects-test", "data.x.shards")
    made = first.path.stat().st_mtime_ns
    (again,) = find_shards("scenes:objects-test", "data.x.shards", local=ProcessShare(1, 2))
    assert again == first
    assert again.path.stat().st_mtime_ns == made
    assert first.path.parent.name == f"scenes-{shards.VERSION}"


@pytest.mark.usefixtures("_few_rows")
def test_the_log_says_how_long_a_shard_will_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(built_in, "_PLAIN_SECONDS", 0.0)
    with caplog.at_level("INFO"):
        find_shards("scenes:depth-test", "data.x.shards")
    assert "making scenes:depth-test: row 2 of 3" in caplog.text
    assert "s left" in caplog.text


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ShardError, match="Did you mean 'scenes:normals-train'.*Known: .*scenes:objects-test"):
        find_shards("scenes:normal-train", "data.x.shards")
