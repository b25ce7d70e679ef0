"""Faults at random under load, and a ledger that counts: `make faults`."""
