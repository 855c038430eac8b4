"""What stands around all routes: ids and log lines, limits of bodies, delays of wrong keys, CORS."""
