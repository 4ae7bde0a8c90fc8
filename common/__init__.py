"""What the caller and the producer share: the contract, the identity and the manners of a service."""

__version__ = "1.0.0"
