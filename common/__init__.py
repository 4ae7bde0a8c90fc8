"""What both services share: contract, identity, settings, middleware and server set-up."""

__version__ = "1.0.0"
