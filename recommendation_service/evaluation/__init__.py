"""How well feeds are ordered, replayed on a log: `recs evaluate`."""
