"""What teachers and students share: the input they expect, and how their layers are tapped."""
