"""Sources: a folder of SQL files for each kind of operator database."""
