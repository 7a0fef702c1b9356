"""A trained student in the files that serving stacks read: one format a file of `formats/`, each checked."""
