"""Trained networks, frozen: each answers one task, for the rows that lack its label."""
