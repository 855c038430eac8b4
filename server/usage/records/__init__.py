"""Records: requests and answers of tenants that want it, redacted, as chats that the trainer and evaluations read."""
