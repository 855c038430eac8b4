"""What this front knows of the servers.

NOTE: a module of its own, which is used through its name: Ray copies the router's class, and with it all that its
module holds.
"""

from __future__ import annotations

from server.cluster.replica_views import ReplicaViews

#: A front has one handle, and so one router.
views = ReplicaViews()
