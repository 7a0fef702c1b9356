"""One file per format; each registers itself under the name that `distill-mtl export --to` takes."""
