"""Malformed models at the real engine: genuine graphs, edits of what they say, packages that a hostile sealer makes.

`graphs` are where models are made of, `own_graphs` those of them that are ours; `edits` changes one, with `values` as
what it changes things into; `sealing` seals anything; `engine` loads and runs it in the enclave's sandboxed child and
says what came of it.
"""
