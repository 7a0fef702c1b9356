"""Opening any trained network: its form on disk, its runtime, what it wants to see, and how its layers are read."""
