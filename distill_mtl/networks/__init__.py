"""Opening any trained network: its form on disk, its runtime, its input, and its layers."""
