"""Label whole archives: a database of videos and actions, stored features, and runs that resume."""
