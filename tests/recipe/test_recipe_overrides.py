"""`--set` reaches every key, through short forms too, and is refused as the file would be."""

import pytest
from recipe_texts import Load, Refuse


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("student.args.norm_layer=groupnorm1", lambda r: r.student.args == {"norm_layer": "groupnorm1"}),
        ("student=resnet34", lambda r: r.student.model == "resnet34"),
        ("tasks.breed.teacher.expect=91.5", lambda r: r.tasks["breed"].teacher.expect == 91.5),
        ("tasks.breed.data.weight=2", lambda r: r.data["breed"].weight == 2),
        ("data.breed.weight=2", lambda r: r.data["breed"].weight == 2),
        ("data.breed.augment.flip=false", lambda r: r.data["breed"].augment.crop == "auto"),
        ("balance.options.scale=3", lambda r: r.balance.method == "auto"),
        ("tasks.breed.hints=[]", lambda r: r.tasks["breed"].hints == []),
        ("data.pool={shards: p.tar}", lambda r: r.data["pool"].labels == {}),
        ("training.clip=", lambda r: r.training.clip is None),
        ("training.precision = bf16", lambda r: r.training.precision == "bf16"),
    ],
)
def test_an_override_sets_its_key(load: Load, ten_lines: str, override: str, read: object) -> None:
    assert read(load(ten_lines, override))


def test_an_override_goes_below_augment_null_without_bringing_defaults_back(
    load: Load, ten_lines: str
) -> None:
    augment = load(ten_lines, "data.breed.augment=null", "data.breed.augment.flip=true").data["breed"].augment
    assert (augment.crop, augment.flip, augment.color) == (None, True, 0)


def test_the_last_override_of_a_key_wins(load: Load, ten_lines: str) -> None:
    assert load(ten_lines, "seed=1", "seed=2").seed == 2


def test_an_item_of_a_list_is_set_by_its_position(load: Load, ten_lines: str) -> None:
    recipe = load(ten_lines, "tasks.breed.hints=[{}, {}]", "tasks.breed.hints.1.teacher=layer3")
    assert [hint.teacher for hint in recipe.tasks["breed"].hints] == [None, "layer3"]


@pytest.mark.parametrize(
    ("override", "finding"),
    [
        (
            "tasks.breed.temprature=2",
            "tasks.breed.temprature:\n  found an unknown key. Did you mean 'temperature'?",
        ),
        (
            "tasks.breed.temperature=-2",
            "tasks.breed.temperature:\n  found -2, expected a number at least 1e-06",
        ),
        ("tasks.bred.temperature=2", "tasks.bred:\n  there is no 'bred' in `tasks`. Did you mean 'breed'?"),
        ("data.bred.weight=2", "data.bred:\n  there is no 'bred' in `data`."),
        ("seed.x=2", "seed.x:\n  `seed` is 7, which has no keys. Set `seed` itself."),
        ("tasks.breed.hints.4.teacher=x", "tasks.breed.hints.4:\n  `tasks.breed.hints` is a list of 1."),
        ("tasks.breed.hints.0.teacher=5", "tasks.breed.hints.0.teacher:\n  found 5, expected text or null."),
        ("training", "--set training:\n  expected key.path=value"),
        ("training..steps=2", "--set training..steps=2:\n  expected key.path=value"),
        ("seed=[1", "seed:\n  the value is not valid YAML"),
        ("seed=!!python/name:os.system", "seed:\n  found the tag !!python/name:os.system."),
        ("student.args={a: 1, a: 2}", "student.args.a:\n  the key stands here and in line 1."),
        ("acceptance.bred=2", "acceptance.bred:\n  there is no task 'bred'."),
    ],
)
def test_a_wrong_override_is_refused_as_its_own_place(
    refuse: Refuse, ten_lines: str, override: str, finding: str
) -> None:
    text = ten_lines.replace("breed: {", "breed: {hints: [{}], ") + "seed: 7\n"
    (paragraph,) = refuse(text, override)
    assert paragraph.startswith(f"--set {override}")
    assert finding in paragraph


def test_overrides_are_reported_after_the_file(refuse: Refuse, ten_lines: str) -> None:
    first, second = refuse(ten_lines + "seeed: 1\n", "sead=2")
    assert first.startswith("pets.yaml, line 5, seeed:")
    assert second.startswith("--set sead=2, sead:")


def test_an_override_mends_a_mistake_of_the_file(load: Load, ten_lines: str) -> None:
    assert load(ten_lines + "seed: {a: -1}\n", "seed=3").seed == 3
