"""Shards of several data sets to batches of mixed rows; `open_sources` is the way in."""

from distill_mtl.data.all_sources import DataSettings, Sources
from distill_mtl.data.batch import Batch
from distill_mtl.data.open_sources import open_sources

__all__ = ["Batch", "DataSettings", "Sources", "open_sources"]
