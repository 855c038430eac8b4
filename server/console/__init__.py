"""The console: a page of static files, served by `server.api.console`. No build step."""
