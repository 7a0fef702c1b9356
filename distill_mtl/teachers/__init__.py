"""Trained networks, frozen: loaded from their folders, asked about rows that lack a label."""
