"""From the log into the database, each event exactly once; what is read, exported and forgotten there."""
