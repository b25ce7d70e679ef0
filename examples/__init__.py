"""Invented databases of three kinds of teams, each with the mapping that the service ranks it by."""
