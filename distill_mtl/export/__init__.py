"""A trained student as a file for a serving stack: one format per file of `formats/`, each checked."""
