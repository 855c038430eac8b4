"""Servers on a Ray cluster that runs by itself: the file that describes them, what Ray gets, and who joins."""
