"""Ways in and out: from the official saver's files, to and from Postgres."""
