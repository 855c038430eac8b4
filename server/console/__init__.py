"""The console: static files that `server.api.console` serves, without a build step."""
