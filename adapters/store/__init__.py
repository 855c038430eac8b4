"""The content-addressed store of verified adapters on the server's disk."""
