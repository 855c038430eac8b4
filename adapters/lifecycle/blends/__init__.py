"""Combinations of versions without training: as new versions, and for the requests that ask for them."""
