"""One file per form in which a trained network is deployed; each opens as a `Runtime`."""
