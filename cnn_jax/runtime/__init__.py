"""What is particular to a machine: processes, compilation cache, streams, memory."""
