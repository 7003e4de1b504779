"""How a workload asks its own platform for evidence, one module per platform."""
