"""A mapping: one file that says what an operator's own tables mean."""
