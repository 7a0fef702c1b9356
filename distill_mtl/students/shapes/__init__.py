"""One file per shape of a student; each registers itself under its key in a recipe's `student`."""
