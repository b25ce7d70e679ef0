"""What feeds showed and what people did: a durable log, its way into the database, and what feeds leave out for it."""
