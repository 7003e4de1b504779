"""What campaigns do to evidence: single changed bytes, and edits that know the structures.

`bundles` genuine evidence · `mutations` changes single bytes · `edits` changes bytes, `der` and `structured` change
what has a structure, `anew` signs what was changed · `fuzz` plays them all.
"""
