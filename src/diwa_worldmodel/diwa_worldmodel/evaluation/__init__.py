"""Can the world model be trusted? Measured on play that it has not seen (``diwa evaluate world-model``)."""
