"""The files of `runs/NAME`, by name: what a run writes, and what reports and other tools read."""

from pathlib import Path


class RunFiles:
    """Paths of one run folder; none of them need exist.

    Args:
        path: the folder.

    Attributes:
        recipe: the resolved recipe; by it a folder is known to hold a run.
        teachers: what was really loaded.
        shards: what streamed shards were in their bucket when the run began; only a run with `store` has it.
        environment: versions, machine and processes that the run last trained with.
        metrics: one line for each logged step.
        checkpoints: folder of the last ones.
        student: folder of the trained network.
        results: the comparison; only a finished run has it.
        pictures: test rows of every task on one sample grid.
        examples: folder of the single pictures that the report shows.
        baselines: folder of the runs that were trained to compare with.
        for_int8: folder of the student that `export --int8 --finetune` has trained on.
        tensorboard: folder of TensorBoard's log, where the recipe asks for one.
        exports: folder of exported files and their certificates.
        report: the page.
        report_markdown: its facts for a merge request.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.resolved.yaml"
        self.teachers = path / "teachers.json"
        self.shards = path / "shards.json"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.student = path / "student"
        self.results = path / "results.json"
        self.pictures = path / "pictures.png"
        self.tensorboard = path / "tensorboard"
        self.examples = path / "examples"
        self.baselines = path / "baselines"
        self.exports = path / "export"
        self.for_int8 = path / "for-int8"
        self.report = path / "report.html"
        self.report_markdown = path / "report.md"
