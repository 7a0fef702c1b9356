"""Checks before training: data, teachers, one batch through everything; and drafts of recipes (`init`)."""
