"""JSON schemas: brought into one form, and checked for what xgrammar enforces of them."""
