"""Finished runs, ready to use: predictions, exports, pages; weights to begin with."""
