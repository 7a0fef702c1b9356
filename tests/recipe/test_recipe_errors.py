"""Every mistake is reported, all at once, with file, line, the user's own path, and the remedy."""

import json
import re

import pytest
import yaml
from recipe_texts import Load, Refuse

WRONG = """\
student: 5
tasks:
  breed:
    teacher: {path: t, taks: x}
    temprature: 3
    temperature: -3
    classes: [a, 1]
    hints: [{student: layer4, teachr: x}, 5]
    data:
      shardz: a.tar
      member: 5
      augment: {crop: [0.9, 0.5]}
data:
  pool:
    shards: p.tar
    resize: squish
training:
  steps: "10"
  clip: true
optimizer: {betas: [0.9], lr: .inf}
seed: 2147483648
"""

FINDINGS = [
    ("line 1, student", "found 5, expected text or a mapping."),
    ("line 4, tasks.breed.teacher.taks", "found an unknown key. Did you mean 'task'? Keys of"),
    ("line 5, tasks.breed.temprature", "found an unknown key. Did you mean 'temperature'? Keys of"),
    ("line 6, tasks.breed.temperature", "found -3, expected a number at least 1e-06 and"),
    ("line 7, tasks.breed.classes.1", "found 1, expected text. Put it in quotes."),
    ("line 8, tasks.breed.hints.0.teachr", "found an unknown key. Did you mean 'teacher'?"),
    ("line 8, tasks.breed.hints.1", "found 5, expected a mapping."),
    ("line 9, tasks.breed.data.shards", "found no `shards`, the training rows. Add them; or"),
    ("line 10, tasks.breed.data.shardz", "found an unknown key. Did you mean 'shards'?"),
    ("line 11, tasks.breed.data.member", "found 5, expected text or null."),
    ("line 12, tasks.breed.data.augment.crop", "found [0.9, 0.5], expected two shares above 0"),
    ("line 16, data.pool.resize", "found \"squish\", expected crop, pad or squash. Did you mean 'squash'?"),
    (
        "line 18, training.steps",
        'found "10", expected a whole number greater than 0 and at most 1000000000 or null.',
    ),
    ("line 19, training.clip", "found true, expected a number greater than 0, auto or null."),
    (
        "line 20, optimizer.betas",
        "found [0.9], expected a list of 2, each a number at least 0 and less than 1.",
    ),
    ("line 20, optimizer.lr", "found Infinity, expected a finite number."),
    ("line 21, seed", "found 2147483648, expected a whole number at least 0 and less than 2147483648."),
]


def test_all_findings_come_at_once_in_the_order_of_the_file(refuse: Refuse) -> None:
    paragraphs = refuse(WRONG)
    assert len(paragraphs) == len(FINDINGS)
    for paragraph, (place, text) in zip(paragraphs, FINDINGS, strict=True):
        head, _, body = paragraph.partition("\n")
        assert head == f"pets.yaml, {place}:"
        assert body.startswith(f"  {text}")


def test_one_value_of_several_forms_is_one_finding(refuse: Refuse, ten_lines: str) -> None:
    paragraph = "--set student.input_size=[224], student.input_size:\n  found [224], expected "
    side = "a whole number greater than 0 and at most 8192"
    wants = f"{side}, a list of 2, each {side} or null."
    assert refuse(ten_lines, "student.input_size=[224]") == [paragraph + wants]


def test_a_missing_section_names_what_belongs_there(refuse: Refuse) -> None:
    first, second, third = refuse("name: pets")
    assert first.startswith("pets.yaml, line 1, data:\n  the key is missing, expected a mapping")
    assert "Add `student`: The network that is trained" in second
    assert third.startswith("pets.yaml, line 1, tasks:")


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "the recipe is empty. `distill-mtl init` drafts one."),
        ("# nothing", "the recipe is empty. `distill-mtl init` drafts one."),
        ("- a", "expected a mapping."),
        ("5", "expected a mapping."),
    ],
)
def test_a_file_without_a_mapping_is_refused(refuse: Refuse, text: str, finding: str) -> None:
    (paragraph,) = refuse(text)
    assert paragraph.endswith(finding)


@pytest.mark.parametrize(
    ("tail", "finding"),
    [
        (
            "data: {pool: {shards: p, labels: {bred: cls}}}",
            "data.pool.labels.bred:\n  there is no task 'bred'. Did",
        ),
        (
            "acceptance: {brd: 1}",
            "acceptance.brd:\n  there is no task 'brd'. Did you mean 'breed'? Tasks: breed,",
        ),
        (
            "acceptance: {margin: {brd: 1}}",
            "acceptance.margin.brd:\n  there is no task 'brd'. Did you mean 'breed'? Tasks: breed,",
        ),
        (
            "acceptance: {breed: 2, rule: point}",
            "acceptance.breed:\n  beside `margin`, `rule`, `gate` or `slices`, margins by task stand under `margin`",
        ),
        (
            "acceptance: pont",
            'acceptance:\n  found "pont", expected a number at least 0, interval or point or a mapping. Did',
        ),
        (
            "acceptance: true",
            "acceptance:\n  found true, expected a number at least 0, interval or point or a mapping.",
        ),
        ("acceptance: {rule: 1}", "acceptance.rule:\n  found 1, expected interval or point."),
        ("acceptance: -1", "acceptance:\n  found -1, expected a number at least 0,"),
        ("acceptance: {breed: -3}", "acceptance.breed:\n  found -3, expected a number at least 0."),
        ("acceptance: {breed: x}", 'acceptance.breed:\n  found "x", expected a number at least 0.'),
        (
            "acceptance: {margin: x}",
            'acceptance.margin:\n  found "x", expected a number at least 0 or a mapping.',
        ),
        (
            "data: {pool: {shards: p, split: {validation: 0.1}}}",
            "data.pool.split.validation:\n  found 0.1, expected the shards of the set: its share cannot be chosen.",
        ),
        (
            "data: {part: {shards: p}}",
            "tasks.part.data:\n  the task has data of its own, and `data` has a source",
        ),
        ("training: {steps: 5, epochs: 2}", "training.epochs:\n  found 2 beside `steps: 5`."),
        (
            "training: {batch_size: 10, accumulate: 4}",
            "training.accumulate:\n  a batch of 10 rows cannot be split",
        ),
        (
            "training: {accumulate: 3}",
            "training.accumulate:\n  a batch of 256 rows cannot be split into 3 equal",
        ),
        ("tasks: 3", "tasks:\n  the key stands here and in line 2. Remove one of the two."),
        ("optimizer: {lr: 1, lr: 2}", "optimizer.lr:\n  the key stands here and in line 5."),
        (
            "name: !!python/name:os.system x",
            "name:\n  found the tag !!python/name:os.system. A recipe holds plain",
        ),
        ("seed: !!int five", 'seed:\n  found "five", which is not !!int. Remove the tag.'),
        ("student2: &s [*s]", "student2.0:\n  found an alias to the very value it stands in."),
        ("[a]: b", "line 5:\n  found a key that is a list or a mapping."),
        ("optimizer: {<<: fast}", 'optimizer:\n  `<<` takes a mapping, found "fast".'),
        (
            "training: {stream: altrnate}",
            'training.stream:\n  found "altrnate", expected mixed or alternate or a mapping. Did you mean',
        ),
        (
            "training: {stream: {phase: 5}}",
            "training.stream.phase:\n  found 5, but batches that mix all data sets have no phases.",
        ),
        (
            "training: {stream: alternate}\ndata: {pool: {shards: p, weight: 2}}",
            "line 6, data.pool.weight:\n  found 2 beside `training.stream: alternate`",
        ),
        (
            "data: {pool: {shards: p, limit: 5}}",
            "data.pool.limit:\n  the source has no labels to limit. Remove `limit`",
        ),
        (
            "data: {more: {shards: p, labels: {breed: cls}, limit: 0}}",
            "data.more.limit:\n  found 0, expected a whole number greater than 0, a mapping or null.",
        ),
        (
            "data: {more: {shards: p, labels: {breed: cls}, limit: {rows: 5, per_class: 1}}}",
            'data.more.limit:\n  found {"rows": 5, "per_class": 1}, expected either `rows` or `per_class`.',
        ),
        (
            "data: {more: {shards: p, labels: {breed: cls}, limit: {share: 0.5}}}",
            'data.more.limit:\n  found {"share": 0.5}, expected either `rows` or `per_class`.',
        ),
        ("name: 9lives", 'name:\n  found "9lives", expected a name of letters, digits'),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(
    refuse: Refuse, ten_lines: str, tail: str, finding: str
) -> None:
    assert any(finding in paragraph for paragraph in refuse(ten_lines + tail))


CONSEQUENCES = [
    # (what is invalid or contradicts itself, the keys that are reported and no others)
    ("data: {pool: {shards: 5}}", ["data.pool.shards"]),
    ("data: {pool: 5}\ntraining: {steps: 5, epochs: 2}", ["data.pool", "training.epochs"]),
    ("schedule: [{until: x}, {until: 0.5, tasks: {bred: {}}}]", ["schedule.0.until", "schedule.1.tasks.bred"]),
    ("training: {accumulate: x, batch_size: 10, select: best, stream: {mode: x, phase: 3}}",
     ["training.accumulate", "training.stream.mode"]),
    ("acceptance: {brd: 1, breed: x}", ["acceptance.brd", "acceptance.breed"]),
    ("student: {model: 3, init: 'teacher:bred'}", ["student.init", "student.model"]),
    ("tasks: {1a: {teacher: t}}\ndata: {pool: {shards: p, labels: {1a: cls}}}", ["tasks.1a"]),
    ("tasks: {a: {teacher: {path: 3, weights: w}}}", ["tasks.a.teacher.path"]),
    ("tasks: {a: {teacher: 5}}", ["tasks.a.teacher"]),
    ("tasks: {a: {teacher: t, gate: {entropy: 7}, weights: {hint: -1}}}",
     ["tasks.a.gate.entropy", "tasks.a.weights.hint"]),
    ("tasks: {a: {teacher: {student: melted}, head: {init: teacher}}}", ["tasks.a.teacher.student"]),
    ("tasks: 3\ndata: 3\ntraining: {clip: x}", ["data", "tasks", "training.clip"]),
]  # fmt: skip


@pytest.mark.parametrize(("tail", "keys"), CONSEQUENCES)
def test_what_follows_from_a_mistake_is_not_reported_and_all_else_is(
    refuse: Refuse, ten_lines: str, tail: str, keys: list[str]
) -> None:
    sections = {"data": {"more": {"shards": "m.tar"}}} | yaml.safe_load(ten_lines) | yaml.safe_load(tail)
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in sections.items())
    found = [re.match(r"pets.yaml, line \d+, (.+):\n", paragraph) for paragraph in refuse(text)]
    assert sorted(match[1] for match in found if match) == keys


TASK_RULES = [
    ("a: {classes: 3}", "tasks.a:\n  found neither a teacher nor a source with its labels."),
    ("a: {data: a.tar}", "tasks.a.classes:\n  found no `classes`, and no teacher to take them from."),
    ("1a: {teacher: t}", 'tasks.1a:\n  found the name "1a", expected a name of letters'),
    (
        "a: {teacher: t, data: {shards: a.tar, labels: {a: cls}}}",
        "tasks.a.data.labels:\n  a task's own data is",
    ),
    ("a:", "tasks.a:\n  found null, expected a mapping."),
]


@pytest.mark.parametrize(("task", "finding"), TASK_RULES)
def test_a_task_that_cannot_be_learned_is_refused(refuse: Refuse, task: str, finding: str) -> None:
    paragraphs = refuse(f"student: r\ndata: {{pool: {{shards: p.tar}}}}\ntasks:\n  {task}\n")
    assert [paragraph.startswith(f"pets.yaml, line 4, {finding}") for paragraph in paragraphs] == [True]


def test_labels_only_needs_labels_for_every_task(refuse: Refuse, load: Load, ten_lines: str) -> None:
    assert load(ten_lines, "training.teachers_on=none").training.teachers_on == "none"
    (paragraph,) = refuse(ten_lines, "training.teachers_on=none", "tasks.part.data=null")
    assert "tasks.part:\n  nothing trains the task" in paragraph


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("teacher:bred", "there is no task 'bred'. Did you mean 'breed'?"),
        ("teacher:part", "has no teacher to start"),
    ],
)
def test_init_from_a_teacher_that_is_not_there_is_refused(
    refuse: Refuse, ten_lines: str, init: str, text: str
) -> None:
    (paragraph,) = refuse(
        ten_lines, f"student.init={init}", "tasks.part.teacher=null", "tasks.part.classes=3"
    )
    assert paragraph.startswith(f"--set student.init={init}, student.init:\n")
    assert text in paragraph


@pytest.mark.parametrize("teacher", ["null", "self"])
def test_a_head_cannot_begin_as_that_of_a_teacher_that_is_not_there(
    refuse: Refuse, ten_lines: str, teacher: str
) -> None:
    text = ten_lines.replace("kind: segmentation", "kind: segmentation, head: {init: teacher}")
    (paragraph,) = refuse(text, f"tasks.part.teacher={teacher}", "tasks.part.classes=3")
    assert paragraph.startswith(
        "pets.yaml, line 4, tasks.part.head.init:\n  the task has no teacher whose head"
    )


@pytest.mark.parametrize("key", ["metric", "head", "classes", "kind"])
def test_what_stands_beside_options_is_not_looked_for_among_them(
    refuse: Refuse, ten_lines: str, key: str
) -> None:
    (paragraph,) = refuse(ten_lines, f"tasks.breed.options.{key}=accuracy")
    assert f"tasks.breed.options.{key}:\n" in paragraph
    assert f"`{key}` stands beside `options`" in paragraph
    assert "to the task" in paragraph


def test_names_that_others_register_are_checked_with_their_line(
    refuse: Refuse, load: Load, ten_lines: str
) -> None:
    choices = {"tasks.*.kind": ["classification", "segmentation"], "balance.method": ["auto", "torchjd:"]}
    (paragraph,) = refuse(ten_lines.replace("segmentation", "segmantation"), choices=choices)
    text = "found \"segmantation\", expected classification or segmentation. Did you mean 'segmentation'?"
    assert paragraph == f"pets.yaml, line 4, tasks.part.kind:\n  {text}"
    assert load(ten_lines, "balance=torchjd:UPGrad", choices=choices).balance.method == "torchjd:UPGrad"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1", 1),
        ("a: 1\nb: c: d", 2),
        ('a: 1\n\nb: "x', 3),
        ("a: 1\n---\nb: 2", 2),
        ("a: 1\nb: \x01", 2),
        ("\ta", 1),
    ],
)
def test_text_that_is_not_yaml_is_one_error_with_its_line(refuse: Refuse, text: str, line: int) -> None:
    (paragraph,) = refuse(text)
    assert paragraph.startswith(f"pets.yaml, line {line}:\n  not valid YAML: ")


@pytest.mark.parametrize(
    ("section", "key", "found"),
    [
        ("tasks: {a: {weights: {hnt: 1}", "tasks.a.weights.hnt", "'hint'"),
        ("tasks: {a: {weights: {'my_terms:Margin': 1}", "tasks.a.weights.my_terms:Margin", "trust: true"),
        ("tasks: {a: {weights: {hint: -1}", "tasks.a.weights.hint", "-1"),
        (
            "schedule: [{weights: {supervized: 1}}]\ntasks: {a: {temperature: 4",
            "schedule.0.weights.supervized",
            "'supervised'",
        ),
        (
            "schedule: [{tasks: {a: {weights: {'my:Margin': 1}}}}]\ntasks: {a: {temperature: 4",
            "schedule.0.tasks.a.weights.my:Margin",
            "tasks.NAME.weights",
        ),
    ],
)
def test_a_loss_term_that_is_not_known_is_named_with_its_key(
    refuse: Refuse, section: str, key: str, found: str
) -> None:
    (paragraph,) = refuse(f"student: resnet18\n{section}, teacher: t, data: a.tar}}}}")
    head, _, text = paragraph.partition("\n")
    assert head.endswith(f"{key}:")
    assert found in text


@pytest.mark.parametrize("key", ["margin", "rule"])
def test_a_task_with_the_name_of_a_key_of_acceptance_is_not_guessed_at(
    refuse: Refuse, ten_lines: str, key: str
) -> None:
    found = refuse(ten_lines.replace("breed:", f"{key}:") + f"acceptance: {{{key}: 3}}")
    finding = rf"(?s)acceptance\.{key}:\n.*`{key}`.* 3 could belong to either.*`acceptance: {{margin:"
    assert any(re.search(finding, one) for one in found)


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("night", "expected FIELD, one of ~ = =="),
        ("area<", "expected FIELD, one of ~ = =="),
        ("area<small", "expected a number after <."),
        ("key~(", "its pattern is no regular expression"),
        ("key~(a+)+b", "a group is repeated, which can take for ever."),
        ("key~(?=a)", "it may not look around"),
        (r"key~(a)\\1", "it may not look around, refer to a group"),
        ("key~a*b*c*d*", "it has more than 3 repeats."),
        (f"key~{'a' * 201}", "a pattern has at most 200 letters."),
    ],
)
def test_a_slices_rule_that_cannot_be_read_is_one_line_with_its_key(
    refuse: Refuse, ten_lines: str, rule: str, found: str
) -> None:
    (paragraph,) = refuse(f'{ten_lines}evaluation: {{slices: {{dark: ["key~a", "{rule}"]}}}}')
    head, _, text = paragraph.partition("\n")
    assert head.endswith("line 5, evaluation.slices.dark:")
    assert found in text
    assert "\n" not in text


def test_a_margin_of_a_slice_or_task_that_is_not_there_is_refused(refuse: Refuse, ten_lines: str) -> None:
    found = refuse(
        f"{ten_lines}evaluation: {{slices: {{night: key~^night}}}}\n"
        "acceptance: {slices: {nihgt: 2, night: {bred: 1}}}"
    )
    assert [one.partition("acceptance.slices.")[2] for one in found] == [
        "night.bred:\n  there is no task 'bred'. Did you mean 'breed'? Tasks: breed, part.",
        "nihgt:\n  there is no slice 'nihgt'. Did you mean 'night'? Slices: night.",
    ]


def test_the_name_of_a_data_set_in_the_place_of_shards_is_named(refuse: Refuse) -> None:
    text = """
student: resnet18
tasks:
  breed: {teacher: t, classes: 3, data: pets}
data: {pets: {shards: p.tar}}
"""
    paragraph = next(each for each in refuse(text) if "tasks.breed.data:" in each)
    assert "'pets' is a data set of the recipe, and shards are expected here." in paragraph
    assert "`data: {pets: {labels: {breed: MEMBER}}}`. Say it there, and remove this key" in paragraph
    assert paragraph.startswith("pets.yaml, line 4, ")
