"""Fewer tokens: merged, dropped, or cut larger from the start, and always put back on the full grid at the end."""
