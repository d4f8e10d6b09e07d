"""What rests in an object store: its names, and features packed by the hundred."""
