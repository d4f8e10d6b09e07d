"""Other ways for tokens to look at each other, each a pure function of query, key and value."""
