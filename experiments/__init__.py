"""One file an experiment: its configurations, and nothing that the library should own."""
