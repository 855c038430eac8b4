"""Many servers as one: which server answers a request, and what the servers tell about themselves."""
