"""From a recipe and a launcher to the parts that checking, training and evaluation work with."""
