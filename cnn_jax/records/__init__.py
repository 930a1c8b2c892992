"""The folder of a run: written, read, verified; every figure described once."""
