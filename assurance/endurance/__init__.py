"""What a deployment lives through for long: turns of everything, bodies of every kind, and what it grows by."""
