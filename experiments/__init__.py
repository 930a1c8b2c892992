"""One file an experiment: its configurations, and nothing that the library should own."""

from cnn_jax.runtime import memory

memory.keep()  # here, since a command that begins anew should do so before it has imported anything
