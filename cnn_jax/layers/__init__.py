"""What networks are built of: Flax's own layers, but while a CPU trains."""
