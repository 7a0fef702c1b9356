"""What earlier comparisons left in a run folder."""

from pathlib import Path

from result_toys import toy_evaluation
from rich.console import Console

from distill_mtl.jobs.run_artefacts import earlier_result


def test_a_result_that_cannot_be_read_counts_as_none_and_is_told(tmp_path: Path) -> None:
    path, console = tmp_path / "results.json", Console(width=500)
    with console.capture() as said:
        assert earlier_result(path, console) is None
    assert said.get() == ""
    toy_evaluation().write(path)
    assert earlier_result(path, console) == toy_evaluation()
    for broken in ('{"tasks": {}}', "{", "[]"):
        path.write_text(broken)
        with console.capture() as said:
            assert earlier_result(path, console) is None
        assert str(path) in said.get()
