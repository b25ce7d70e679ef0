"""The words that all rooms share: kinds, features, columns, arrays. Imports nothing of the package."""
