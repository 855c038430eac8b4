"""The registry's price list, what was spent since a moment, and the webhooks."""
