"""/admin/v1/adapters: operators manage all adapters, a tenant's admin its own."""
