"""The little closed world that the embedded model answers about."""
