"""What the service tells of itself: metrics, their files, what its processes use of the machine."""
