"""A page to look at what was found."""
