"""The operations that the networks are made of."""
