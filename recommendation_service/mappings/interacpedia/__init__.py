"""The first operator: the service's own database and contract. Nothing outside of here has its names."""
