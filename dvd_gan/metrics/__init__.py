"""Numbers that say how good videos are."""
