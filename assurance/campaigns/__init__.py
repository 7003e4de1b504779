"""The campaigns, one module for each claim or family of claims; `assurance.catalogue` lists them."""
