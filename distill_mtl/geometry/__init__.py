"""Views of a picture (crop, flip, resize), and how they move pixels, boxes and points."""
