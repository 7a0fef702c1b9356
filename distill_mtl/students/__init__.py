"""The network that is trained: one trunk for all tasks, one light head for each; and its folder."""
