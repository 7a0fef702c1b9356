"""Where the targets of a batch come from: teachers that run in every step, or a cache of what they said."""
