"""What a request reads and leaves behind: the turn's commit, the fleet's memory, a user's past, the record."""
