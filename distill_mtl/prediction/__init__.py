"""Pictures in, decoded answers of all tasks out: `distill-mtl predict`."""
