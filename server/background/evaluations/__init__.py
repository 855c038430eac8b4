"""Evaluations of versions on held-out chats, on the engine that serves, in its background class."""
