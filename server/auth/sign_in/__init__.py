"""Sign-in of people through an OpenID Connect provider (authorization code with PKCE)."""
