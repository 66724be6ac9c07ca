"""What happens when in long video."""

__version__ = "0.1.0"
