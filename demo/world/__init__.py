"""The small closed world about which the embedded model answers questions."""
