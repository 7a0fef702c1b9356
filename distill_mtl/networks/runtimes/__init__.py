"""One file for each form in which a trained network is deployed, each to a `Runtime`."""
