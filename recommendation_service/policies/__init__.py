"""Policies: the file's format, what is read of it, and the policy that ships."""
