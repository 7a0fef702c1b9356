"""What was found in the shards: rows, labels, and each source's share of a batch."""

from rich import box
from rich.console import Console
from rich.table import Table

from distill_mtl.data import Sources


def show_sources(console: Console, sources: Sources) -> None:
    """Print a line per source. Every shard has been walked to its end and every row's members counted."""
    table = Table(title="data", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("source", "labels"):
        table.add_column(column)
    for column in ("train", "validation", "test", "shards", "share of a batch"):
        table.add_column(column, justify="right")
    for source in sources.summary():
        cut = {
            split: f"{rows:,}" + (" *" if split in source.hashed else "")
            for split, rows in source.rows.items()
        }
        labels = ", ".join(f"{task} ({member})" for task, member in source.labels.items()) or "none"
        table.add_row(source.name, labels, *cut.values(), str(source.shards), f"{100 * source.share:.0f} %")
    console.print(table)
    if any("test" in source.hashed for source in sources.summary()):
        console.print(
            "* cut from the training shards by a hash of the key: a teacher may have seen these rows",
            style="dim",
        )
