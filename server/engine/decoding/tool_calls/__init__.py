"""Reads tool calls in answers (`scanner`, `parser`, `answers`) and checks those of the history (`history`)."""
