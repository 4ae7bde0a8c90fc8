"""Tools that make targets and workflows run."""
