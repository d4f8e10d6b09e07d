"""Where payloads rest."""
