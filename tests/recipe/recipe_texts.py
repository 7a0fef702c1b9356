"""What the tests of the recipe share: the types of their fixtures, and the shortest recipe."""

from collections.abc import Callable

from distill_mtl.recipe import Recipe

Load = Callable[..., Recipe]
Refuse = Callable[..., list[str]]

TEN_LINES = """\
student: resnet18
tasks:
  breed: {teacher: teachers/breed, data: "shards/breed-{000..009}.tar"}
  part:  {teacher: teachers/part,  data: "shards/part-{000..003}.tar", kind: segmentation}
"""
