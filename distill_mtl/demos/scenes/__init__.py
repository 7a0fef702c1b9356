"""The second story's data: rendered scenes of solid shapes, in five sets of shards that share no picture.

A recipe names the shards `scenes:SET-SPLIT`. The way of the data: chance decides what stands where (compose.py fills
a scene.py), a ray through every pixel finds what it shows and makes the picture (render.py), and the same surfaces,
seen through the centres of the pixels, give the labels (scene_rows.py, which writes them down).

The arithmetic is float64 with + - * / and the square root alone, which IEEE 754 rounds alike everywhere, an
element at a time; directions are normalised vectors and turns Pythagorean, so no sine of some library
decides a pixel. All chance is from SplitMix64. So the bytes are the same on every machine.

Coordinates of the world: metres, x and y on the floor, z up. Arrays of vectors have the axis first: [3, ...].
"""
