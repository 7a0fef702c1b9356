"""Shards of several data sets to batches of mixed rows; `open_sources` is the way in."""

from distill_mtl.data.batch import Batch
from distill_mtl.data.sources import Sources, open_sources

__all__ = ["Batch", "Sources", "open_sources"]
