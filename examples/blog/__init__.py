"""A magazine with a shop: articles and products under slugs, readers, reads, orders and bookmarks."""
