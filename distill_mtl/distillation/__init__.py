"""What a student learns from on each row: labels, soft targets and hints, one loss per task."""
