"""What a run has shown, on one page: for people who did not train it. Made from the run folder alone."""
