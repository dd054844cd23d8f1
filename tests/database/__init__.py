"""What the database layer promises."""
