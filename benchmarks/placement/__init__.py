"""Which replica answers a request: the policies, simulated on a hundred replicas."""
