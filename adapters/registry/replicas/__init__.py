"""What servers that share a registry tell each other there."""
