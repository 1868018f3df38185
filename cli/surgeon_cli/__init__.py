"""The `surgeon` command."""
