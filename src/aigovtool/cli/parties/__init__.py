"""Who is enrolled: `aigovtool operator | borrower | consumer`.

`operator` who commands · `party` what all roles share, and the other two.
"""
