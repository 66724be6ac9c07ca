"""Whole archives: a database of videos and actions, stored features, and runs that go on where they stopped."""
