"""A real custodian of whom everything is ordered and asked in any order, and its log as an auditor reads it."""
