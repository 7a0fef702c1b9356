"""Answers of all tasks about pictures on disk: `distill-mtl predict`."""
