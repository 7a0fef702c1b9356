"""Students whose tasks mix a transformer's blocks in orders of their own."""

import pytest
import torch
from toys import classification, segmentation

from distill_mtl.errors import StudentError, UserError
from distill_mtl.evaluation.cost import networks_run, node_costs
from distill_mtl.students.shape import layout_in, restore_body, shaped
from distill_mtl.students.student import FAMILIES, Student, Trunk
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.training.optimizer import hidden_matrices

TASKS = ["a", "b", "c"]
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trunk(name: str = "test_vit", size: int = 32) -> Trunk:
    torch.manual_seed(0)
    return FAMILIES["timm"].create(name, {}, (size, size), pretrained=False).eval()


def soft(tasks=TASKS, whole: Trunk | None = None):
    return shaped(whole or trunk(), {"order": "soft"}, tasks).eval()


def shuffled(body) -> None:
    """Orders that differ between tasks."""
    torch.manual_seed(1)
    for task in body.tasks:
        torch.nn.init.normal_(body.model[task].order)


@torch.no_grad()
def test_every_task_gets_its_own_sum_of_all_blocks_at_every_depth():
    body = soft()
    shuffled(body)
    network, found = body.model["root"], body(IMAGES)
    for task in TASKS:
        order = body.model[task]()
        assert torch.allclose(order.sum(1), torch.ones(6))
        state = network._pos_embed(network.patch_embed(body.preprocess(IMAGES)))
        for depth in range(6):
            state = sum(order[depth, j] * block(state) for j, block in enumerate(network.blocks))
            tokens = state[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
            assert torch.allclose(body.of(task, found)[f"blocks.{depth}"], tokens, atol=1e-6)
        pooled = network.forward_head(network.norm(state), pre_logits=True)
        assert torch.allclose(body.of(task, found)["pooled"], pooled, atol=1e-6)
    assert not torch.allclose(found["a.pooled"], found["b.pooled"])


@torch.no_grad()
def test_in_its_own_order_a_task_has_the_whole_network():
    whole = trunk()
    expected = whole(IMAGES)["pooled"]
    body = soft(whole=whole)
    near = body(IMAGES)["a.pooled"]
    for task in TASKS:
        body.model[task].order.copy_(1000 * torch.eye(6).flatten())
    exact = body(IMAGES)["a.pooled"]
    assert torch.allclose(exact, expected, atol=1e-6)
    assert 0 < (near - expected).norm() < 0.5 * expected.norm()


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_network_whose_stages_differ_is_refused(name):
    with pytest.raises(
        StudentError, match=rf"student\.order: {name} has no row of blocks.*ViT or an MLP-Mixer"
    ):
        soft(whole=trunk(name, 64))


def test_a_layer_inside_a_block_cannot_be_read():
    with pytest.raises(UserError, match=r"no layer 'blocks\.2\.attn'.*'blocks\.2'"):
        soft().tap(["blocks.2.attn"])


def test_a_layer_of_a_task_depends_on_its_own_order_alone():
    behind = soft().parameters_behind(["blocks.1"], "b")
    assert "model.b.order" in behind
    assert "model.root.blocks.5.mlp.fc1.weight" in behind  # all blocks stand at the first depth
    assert behind.isdisjoint({"model.a.order", "model.c.order", "model.root.norm.weight"})


def test_the_part_of_some_tasks_answers_as_the_whole():
    body = soft()
    shuffled(body)
    part = body.only(["a", "c"])
    with torch.no_grad():
        assert torch.equal(part(IMAGES)["c.pooled"], body(IMAGES)["c.pooled"])
    assert set(part.parts) == {"root", "a", "c"}
    assert body.only(TASKS) is body


def test_it_is_described_and_restored():
    body = soft()
    entry = body.describe()
    assert entry["order"] == "soft"
    assert layout_in(entry, TASKS, "config.json", None) == {"order": "soft"}
    again = restore_body(entry, {"order": "soft"}, TASKS)
    again.model.load_state_dict(body.model.state_dict())
    assert torch.equal(again.eval()(IMAGES)["b.pooled"], body(IMAGES)["b.pooled"])


def test_it_is_saved_and_loaded(tmp_path):
    student = Student(soft(["hue", "shape"]), {"hue": classification(3), "shape": segmentation(2)}).eval()
    shuffled(student.trunk)
    save_student(student, tmp_path / "student")
    loaded = load_student(tmp_path / "student")
    with torch.no_grad():
        assert torch.equal(loaded.student(IMAGES)["hue"], student(IMAGES)["hue"])


def test_weights_of_a_plain_network_fill_the_blocks_and_leave_the_orders():
    body, network = soft(), trunk()
    given = body.from_whole(network.model.state_dict())
    assert set(given) == set(body.model.state_dict())
    assert torch.equal(given["root.blocks.3.mlp.fc1.weight"], network.model.blocks[3].mlp.fc1.weight)


def test_orders_go_on_with_their_tasks():
    old, new = soft(["a", "b"]), soft(["b", "d"])
    shuffled(old)
    new.model.load_state_dict(new.from_paths({task: old.path_state(task) for task in ("a", "b")}))
    assert torch.equal(new.model["b"].order, old.model["b"].order)


def test_optimizers_take_the_orders_for_scalars():
    body = soft()
    orders = {id(body.model[task].order) for task in TASKS}
    assert orders.isdisjoint(map(id, hidden_matrices(body)))
    assert all(
        body.model[task].order.ndim == 1 for task in TASKS
    )  # param_groups_weight_decay leaves them out


def test_weights_count_once_and_computation_as_often_as_it_runs():
    student = Student(soft(["a", "b"]), {"a": classification(3), "b": classification(3)}).eval()
    nodes = node_costs(student, (32, 32))
    assert [(name, node.parent, node.begins, node.parameters) for name, node in nodes.items()][1:] == [
        ("a", "root", "blocks.1", 36),
        ("b", "root", "blocks.1", 36),
    ]
    plain = sum(p.numel() for p in trunk().parameters())
    assert nodes["root"].parameters == plain
    assert 9 < networks_run(nodes, student.trunk) < 11  # 6 blocks, twice 6 * 5 more, and the patches once
