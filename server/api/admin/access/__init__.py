"""/admin/v1: keys, and who is signed in."""
