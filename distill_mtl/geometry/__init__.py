"""Which part of a picture is seen, and where its pixels, boxes and points come to lie."""
