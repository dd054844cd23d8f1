"""What relay persistence promises."""
