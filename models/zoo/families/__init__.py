"""The builders, by kind of model."""
