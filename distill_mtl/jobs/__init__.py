"""One module per job: a typed function with a docstring is the public API, and the command is derived from it."""
