"""Convolutional networks compared in JAX: one configuration, one record, one table."""

import time

IMPORTED_S = time.time()
"""Seconds since 1970 when the first file of this package was read: whether a file changed later,
before or after it was imported itself, can't be told."""
