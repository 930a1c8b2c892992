"""A town seen from above: planned, built and photographed, for `cnn_jax.data.synthetic`."""
