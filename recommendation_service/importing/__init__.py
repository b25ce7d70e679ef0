"""What another recommender exported, as tables and a mapping of them: `recs import`."""
