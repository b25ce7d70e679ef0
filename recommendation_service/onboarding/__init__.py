"""From a database never seen before to a mapping that works: `recs source`."""
