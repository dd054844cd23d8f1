"""The numbered .sql files of each component, shipped inside the wheel."""
