"""Convolutional networks compared in JAX: one configuration, one record, one table."""
