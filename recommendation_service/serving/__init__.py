"""A request, from its fields to its bytes; what people did; and what a worker serves from."""
