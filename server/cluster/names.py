"""The names under which Ray Serve knows the servers; a module of its own, because it does not import Ray."""

APPLICATION, DEPLOYMENT = "loragate", "servers"
