"""Money and prices: integers and decimals, never floats. No database, no HTTP."""
