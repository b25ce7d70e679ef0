"""Processes of which one runs on a machine, under a lock: which there are, how they are kept alive and asked."""
