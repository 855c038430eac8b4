"""The KV blocks and sequence slots that tenants hold, and who is preempted when there are too few."""
