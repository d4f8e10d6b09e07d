"""The same cluster on virtual time: real node code on an in-memory network, repeatable by seed."""
