"""The data of recipes/scenes.yaml: rendered scenes of solid shapes, in five sets of shards without a common picture.

A recipe names the shards `scenes:SET-SPLIT`. compose.py draws a random scene (scene.py has its types), render.py
traces a ray through each pixel and makes the picture, and scene_rows.py writes the labels, from the surfaces behind
the centres of the pixels.

The bytes are the same on every machine. The arithmetic is float64 with + - * / and the square root, element by element,
which IEEE 754 rounds the same everywhere. Directions are normalised vectors and rotations use Pythagorean cosines,
without a library's sine. All random numbers are from SplitMix64.

World coordinates: metres, x and y on the floor, z up. Arrays of vectors have the axis first: [3, ...].
"""
