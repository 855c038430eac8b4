"""What is observed of the running server beside the answers: label sets, state at a scrape, traces."""
