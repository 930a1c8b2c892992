"""Convolutional networks compared in JAX: one configuration, one record, one table."""

import time

IMPORTED_S = time.time()
"""Seconds since 1970 when the first file of this package was read: what changes later is not what runs."""
