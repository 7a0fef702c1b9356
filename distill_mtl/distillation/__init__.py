"""The loss of each task: from labels, from a teacher's soft targets, and from hints."""
