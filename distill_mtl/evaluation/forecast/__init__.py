"""How far a student will be from its teachers, before it is trained: forecasts, and how they did."""
