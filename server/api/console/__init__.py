"""The console: static files that `server.api.console.pages` serves, without a build step."""
