"""Streams of chats and completions, written without a record per chunk."""
