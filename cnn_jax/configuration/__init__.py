"""Typed configurations: what a run is made of (`schema`), how it is recorded (`documents`) and read
from a command line (`command_line`)."""
