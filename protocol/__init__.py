"""What nodes say to each other, and what features look like in bytes. Knows nothing of nodes or encoders."""
