"""What the campaigns on a failing disk share: the life of a ledger, processes made to fail, the examiner."""
