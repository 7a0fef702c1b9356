"""One file per form in which detectors give their boxes; each registers as a `BoxForm`."""
