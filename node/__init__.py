"""One member of the cluster. `lookup.py` is the story: how one request for features is answered."""
