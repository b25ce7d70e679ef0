"""What editors rule of items: pinned to a place, buried, taken down."""
