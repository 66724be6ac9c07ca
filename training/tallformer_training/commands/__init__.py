"""Commands of the command line that need torch; each module has a Typer `app`."""
