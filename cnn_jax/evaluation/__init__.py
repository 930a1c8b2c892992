"""What predictions are worth: figures from counts, boundaries, calibration, statistics."""
