"""The network that is trained: one trunk for all tasks, one small head per task; and its folder on disk."""
