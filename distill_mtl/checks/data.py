"""What was found in the shards: rows, labels, and each source's share of a batch."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from distill_mtl.data import Sources
from distill_mtl.data.sources import SourceSummary

_EXAMPLES = 5


def show_sources(console: Console, sources: Sources) -> None:
    """Print a line per source. Every shard has been walked to its end and every row's members counted."""
    summaries = sources.summary()
    shared = "a batch" if sources.phase_length is None else "the steps"
    table = Table(title="data", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("source", "labels"):
        table.add_column(column)
    for column in ("train", "validation", "test", "shards", f"share of {shared}"):
        table.add_column(column, justify="right")
    for source in summaries:
        cut = {
            split: f"{rows:,}" + (" *" if split in source.hashed else "")
            for split, rows in source.rows.items()
        }
        table.add_row(
            source.name, _labels(source), *cut.values(), str(source.shards), f"{100 * source.share:.0f} %"
        )
    console.print(table)
    for note in _notes(summaries, sources.phase_length):
        console.print(note, style="dim", highlight=False)


def _labels(source: SourceSummary) -> str:
    labels = ", ".join(f"{task} ({member})" for task, member in source.labels.items()) or "none"
    if not source.is_limited:
        return labels
    return f"{labels}, {source.labelled:,} of {source.rows['train']:,} labelled"


def _notes(summaries: Sequence[SourceSummary], phase_length: int | None) -> Iterator[str]:
    if any("test" in source.hashed for source in summaries):
        yield "* cut from the training shards by a hash of the key: a teacher may have seen these rows"
    if phase_length is not None:
        steps = "1 step" if phase_length == 1 else f"{phase_length:,} steps"
        yield f"batches of one data set each, {steps} before the next one turns (training.stream)"
    for source in summaries:
        if source.is_limited:
            share = f"{100 * source.labelled_share:.0f} %"
            yield f"{source.name}: {share} of its rows in a batch have labels (limit.share)"
        if source.small_classes:
            found = [f"{name} ({rows:,})" for name, rows in source.small_classes.items()]
            more = f" and {len(found) - _EXAMPLES} more" if len(found) > _EXAMPLES else ""
            few = ", ".join(found[:_EXAMPLES])
            yield f"{source.name}: fewer rows than limit.per_class asks for, so all of them: {few}{more}"
