"""The report of a run, or of several, for people who did not train it; made from run folders alone."""
