"""`accelerate launch -m distill_mtl recipe.yaml`: what distill.py does, for an installed wheel."""

from distill_mtl.cli import distill_command

if __name__ == "__main__":
    distill_command()
