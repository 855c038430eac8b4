"""Who may use the server: keys, and sessions of people who signed in."""
