"""The sealed model: one signed, encrypted file that travels by any route (docs/spec/package.md).

`manifest` what is inside, and the sealer's signature over it · `format` the framing · `sealing` makes and
opens packages · `source` opens a model's files for sealing · `inspect` reads an ONNX graph without its
weights (`wire` protobuf, `onnx_schema` field numbers) · `loadcheck` loads it once in a process of its own.
"""
