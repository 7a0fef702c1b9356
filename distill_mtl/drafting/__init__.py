"""A recipe's first draft, from what lies on the disk: a look into one teacher, and whole recipes."""
