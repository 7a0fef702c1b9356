"""What a network costs."""

from pathlib import Path

import pytest
import torch
import toys
from torch import Tensor, nn

from distill_mtl.evaluation import cost as costs
from distill_mtl.evaluation.cost import compare_costs, cost_of, costs_of, head_costs
from distill_mtl.evaluation.memory import peak_memory
from distill_mtl.evaluation.network_costs import Cost
from distill_mtl.networks.flops import flop_counter
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student_folder import DeployedStudent, save_student
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.shared_trunks import share_trunks


class Tied(nn.Module):
    """One convolution under two names, two buffers, and a count of the passes in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second = self.first
        self.register_buffer("mean", torch.zeros(5, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
        self.trained = 0

    def forward(self, images: Tensor) -> Tensor:
        self.trained += self.training
        return self.second(self.first(images))


def test_parameters_flops_and_bytes_by_hand() -> None:
    network = Tied()
    cost = cost_of(network, (10, 12))
    weights = 3 * 3 * 3 * 3
    assert cost.parameters == weights
    assert cost.flops == 2 * (2 * weights * 10 * 12)  # two passes, a multiplication and an addition each
    assert cost.bytes == 4 * weights + 4 * 5 + 8 * 2
    assert cost.latency_ms > 0


def test_cost_is_that_of_the_network_in_use_and_leaves_its_mode() -> None:
    network = Tied().train()
    cost_of(network, (4, 4))
    assert network.trained == 0
    assert network.training


def test_attention_is_counted() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.query = nn.Linear(8, 24)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).mT
            query, key, value = self.query(tokens)[:, None].chunk(3, dim=-1)
            return nn.functional.scaled_dot_product_attention(query, key, value)

    patches, tokens = 2 * 8 * 48 * 16, 16
    products = 2 * tokens * 8 * 24 + 2 * (2 * tokens * tokens * 8)
    assert cost_of(Tokens(), (16, 16)).flops == patches + products


@pytest.mark.parametrize("shape", [(1, 1, 16, 8), (3, 4, 16, 8), (2, 4, 5, 32)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_takes_two_products_of_its_tokens_whatever_kernel_computes_it(
    shape: tuple[int, int, int, int], masked: bool
) -> None:
    """2 * B*H*N*N*D for query x key, as much for the weights x value; a mask saves nothing."""
    batch, heads, tokens, width = shape
    query = torch.rand(shape)
    mask = torch.ones(tokens, tokens, dtype=torch.bool) if masked else None
    with torch.no_grad(), flop_counter() as counter:
        nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert counter.get_total_flops() == 2 * (2 * batch * heads * tokens * tokens * width)


def test_torch_s_own_attention_layers_are_counted_like_their_parts() -> None:
    """In evaluation mode they have a fused form, which torch's counter takes for nothing."""
    tokens, width, hidden = 16, 8, 32
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True).eval()
    attention = 2 * tokens * width * (3 * width + width) + 2 * (2 * tokens * tokens * width)
    with torch.no_grad(), flop_counter() as counter:
        layer(torch.rand(1, tokens, width))
    assert counter.get_total_flops() == attention + 2 * (2 * tokens * width * hidden)
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_another_runtime_runs_is_not_counted_as_nothing() -> None:
    """Its parameters are what it says; FLOPs that nobody counts are unknown, and so are sums with them."""

    class Foreign(nn.Module):
        parameter_count = 1000
        parameter_bytes = 4000

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    foreign = cost_of(Foreign(), (8, 8))
    assert (foreign.parameters, foreign.bytes, foreign.flops) == (1000, 4000, None)
    own = cost_of(nn.Conv2d(3, 4, 3), (8, 8))
    both = own + foreign
    assert both.flops is None
    assert both.parameters == 1112


@pytest.mark.parametrize("deployed", [False, True])
def test_what_a_head_takes_is_counted_by_hand(deployed: bool) -> None:
    """The toy student at 8 px: a linear layer from 12 to 3, and a decoder over 4 x 4 and 2 x 2 pixels."""
    student = toys.toy_student({"hue": toys.classification(3), "shape": toys.segmentation(2)})
    network = DeployedStudent(student) if deployed else student
    whole = cost_of(network, (8, 8))
    heads = head_costs(network, (8, 8), whole)
    assert list(heads) == ["hue", "shape"]
    assert (heads["hue"].parameters, heads["hue"].flops) == (3 * 13, 2 * 3 * 12)
    fine, coarse = 2 * 16 * 24, 2 * 4 * 24
    laterals = fine * 6 + coarse * 12
    assert heads["shape"].flops == laterals + fine * 24 * 9 + fine * 2
    assert heads["shape"].parameters == sum(p.numel() for p in student.heads["shape"].parameters())
    trunk = 2 * 16 * 6 * 27 + 2 * 4 * 12 * 6 * 9
    assert whole.flops == trunk + sum(head.flops for head in heads.values())


def test_a_network_without_heads_by_name_has_none() -> None:
    assert head_costs(Tied(), (8, 8), cost_of(Tied(), (8, 8))) == {}


LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' high-water mark")


def test_one_after_the_other_latencies_add_rates_join_and_working_memory_is_used_again() -> None:
    first = Cost(10, 20, 1_000, 2.0, 32, 100.0, 5_000)
    second = Cost(30, 40, 3_000, 6.0, 32, 300.0, 4_000)
    both = first + second
    assert (both.parameters, both.flops, both.bytes, both.latency_ms, both.batch) == (40, 60, 4_000, 8.0, 32)
    assert both.rows_per_second == pytest.approx(75)  # 1/100 + 1/300 seconds a row
    assert both.peak_memory == 4_000 + 4_000  # all weights, and the larger working set
    assert (first + Cost(1, 1, 1, 1.0)).peak_memory is None
    assert (first + Cost(1, 1, None, 1.0, 32, 1.0, 9)).peak_memory is None


@LINUX
def test_peak_memory_is_weights_and_the_largest_tensors_that_live_together() -> None:
    """40 MB of weights that are only looked at; 20 copies of the images, and those once more."""

    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(10_000_000))

        def forward(self, images: Tensor) -> Tensor:
            return images.repeat(20, 1, 1, 1).exp()[:1] + self.weight[0]

    network, images = Copies(), torch.rand(8, 3, 96, 96)
    copies = 20 * images.nbytes
    with torch.no_grad():
        peak = peak_memory(network, images)
    assert peak is not None
    assert peak == pytest.approx(40_000_000 + 2 * copies, rel=0.1)


@LINUX
def test_what_ran_before_is_not_counted() -> None:
    images = torch.rand(2, 3, 32, 32)
    network = nn.Conv2d(3, 4, 3).eval()
    torch.zeros(40_000_000).sum()
    with torch.no_grad():
        peak = peak_memory(network, images)
    assert peak is not None
    assert peak < 20_000_000


@LINUX
def test_a_network_that_keeps_memory_to_itself_is_measured_by_a_fresh_copy() -> None:
    class Foreign(nn.Module):
        """Takes 40 MB when it is first asked, and says that it holds ten million numbers."""

        parameter_count = 10_000_000
        parameter_bytes = 40_000_000

        def __init__(self) -> None:
            super().__init__()
            self.held: Tensor | None = None

        def forward(self, images: Tensor) -> Tensor:
            if self.held is None:
                self.held = torch.ones(10_000_000)
            return images.mean((2, 3))

        def __getstate__(self) -> dict[str, object]:
            return {**self.__dict__, "held": None}

    network = Foreign()
    network(torch.rand(1, 3, 8, 8))
    peak = peak_memory(network, torch.rand(4, 3, 8, 8))
    assert peak is not None
    # Resident memory is counted in pages.
    assert 39_900_000 <= peak < 50_000_000


class Staged(nn.Module):
    """Takes as long for four images as for one, by a clock of the test's."""

    def __init__(self, clock: list[float], per_image: float, log: list[tuple[str, int]], name: str) -> None:
        super().__init__()
        self.clock, self.per_image, self.log, self.name = clock, per_image, log, name

    def forward(self, images: Tensor) -> Tensor:
        self.clock[0] += self.per_image * max(4, len(images))
        self.log.append((self.name, len(images)))
        return images


def test_networks_take_turns_and_share_the_smallest_batch_that_saturates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, log = [0.0], list[tuple[str, int]]()
    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock[0])
    networks = [Staged(clock, 0.001, log, "student"), Staged(clock, 0.003, log, "teacher")]
    (student, teacher), unrest = costs_of(networks, (4, 4))
    assert unrest == pytest.approx(1)
    assert (student.batch, teacher.batch) == (4, 4)
    assert student.rows_per_second == pytest.approx(1000)
    assert teacher.rows_per_second == pytest.approx(1000 / 3)
    assert teacher.latency_ms == pytest.approx(12)
    assert max(rows for _, rows in log) == 16, "two doublings without a gain end the search"
    timed = [name for name, rows in log if rows == 8]
    rounds = [timed[first : first + 4] for first in range(0, len(timed), 4)]
    orders = {tuple(order) for order in rounds}
    assert orders == {
        ("student", "student", "teacher", "teacher"),
        ("teacher", "teacher", "student", "student"),
    }


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes of three wait for others to finish; the median is one of these."""
    clock, passes = [0.0], [0]
    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock[0])

    class Waits(Staged):
        def forward(self, images: Tensor) -> Tensor:
            passes[0] += 1
            clock[0] += 0.01 * (passes[0] % 3 > 0)
            return super().forward(images)

    network = Waits(clock, 0.001, [], "it")
    assert costs_of([network], (4, 4)).unrest == pytest.approx(3.5)
    assert "busy with other work" in compare_costs(network, {}, (4, 4), "cpu", batch_size=8).machine
    quiet = Staged(clock, 0.001, [], "it")
    assert "busy" not in compare_costs(quiet, {}, (4, 4), "cpu", batch_size=8).machine


def test_batches_stop_at_what_is_known_to_fit_and_at_long_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = [0.0], list[tuple[str, int]]()
    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock[0])
    costs_of([Staged(clock, 0.001, log, "it")], (4, 4), known=2)
    assert max(rows for _, rows in log) == 2
    log.clear()
    costs_of([Staged(clock, 0.2, log, "it")], (4, 4))
    assert max(rows for _, rows in log) == 1


def test_a_batch_that_does_not_fit_ends_the_search_at_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU alone are batches tried that nobody has seen fit; the search is asked as if there were one."""

    class Small(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 8:
                raise RuntimeError("no room")
            return images.sum()

    monkeypatch.setattr(costs, "_images", lambda batch, size, device: torch.rand(batch, 3, *size))
    monkeypatch.setattr(costs, "_PATIENCE", 100)
    gpu = torch.device("cuda")
    assert costs._saturating([Small()], (4, 4), gpu, 4, lambda text: None) <= 8
    with pytest.raises(RuntimeError, match="no room"):
        costs._saturating([Small()], (4, 4), gpu, 16, lambda text: None)


def test_a_trunk_that_two_teachers_share_is_paid_once_and_each_alone_in_full(tmp_path: Path) -> None:
    student = toys.toy_student({"hue": toys.classification(3), "shape": toys.segmentation(2)})
    save_student(student, tmp_path / "both")
    section = TeacherSection(path=str(tmp_path / "both"))
    teachers = {task: load_teacher(section, task=task) for task in ("hue", "shape")}
    share_trunks(teachers.values())
    spent = compare_costs(student, teachers, (8, 8), "cpu", batch_size=4)
    assert spent.teachers is not None
    assert spent.teachers.parameters == spent.student.parameters
    assert spent.teachers.flops == spent.student.flops
    assert spent.each["hue"].parameters is not None
    assert spent.each["shape"].parameters is not None
    heads = sum(head.parameters for head in spent.heads.values())
    trunk = (spent.student.parameters or 0) - heads
    assert spent.each["hue"].parameters + spent.each["shape"].parameters == 2 * trunk + heads
    assert "torch" in spent.machine
