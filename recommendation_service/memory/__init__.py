"""What users have seen, for all workers of a machine: the file, what gives way in it, and who keeps it in order."""
