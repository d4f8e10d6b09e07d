"""Which entry goes when the store is full."""
