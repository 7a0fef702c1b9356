"""The data sets of the quickstart and of the scenes: computed on first use, without a download."""
