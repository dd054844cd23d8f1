"""Many threads, tasks and processes on one file, and processes killed in the middle of it."""
