"""Parsers under test: each with genuine inputs, edits that change them, and an independent reading of what it accepts.

`parser` says what a parser is and plays the inputs of a seed; each other module is one parser, or what several need:
`reading` reads JSON by hand and holds documents to their schemas, `documents` makes a kind of input of any message,
`values` makes genuine messages, `certificates` and `files` what their names say.
"""
