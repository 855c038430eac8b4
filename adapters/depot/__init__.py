"""The depot: artifacts in a place that all servers on one registry reach."""
