"""Money, prices, webhooks and counts of the last minute: integers and decimals, no database, no HTTP."""
