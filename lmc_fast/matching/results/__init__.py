"""What a matching found, and how it is kept."""
