"""Frozen trained networks: loaded from folders and files, they give the targets of rows without a label."""
