"""How well another policy would have done, from what was logged while one served."""
