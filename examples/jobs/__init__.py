"""A job board: ads of companies, candidates with skills, what they looked at and applied for."""
