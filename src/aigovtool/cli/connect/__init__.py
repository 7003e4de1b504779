"""`aigovtool connect`: the consumer's gateway, and what it has kept."""

__all__: list[str] = []
