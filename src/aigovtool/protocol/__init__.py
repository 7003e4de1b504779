"""What travels between consumers, enclaves and custodians, as values and bytes only.

Each module is one protocol, both sides, without sockets, clocks or threads: it turns bytes from outside
into frozen values or raises an `InputError`, and values into the bytes to send. Nothing here imports numpy:
an enclave that parses requests should load as little code as possible, and the SDK converts arrays itself.

* `tensor` is the one tensor type: a name, a datatype, a shape, and little-endian bytes.
* `tensor_json` is the JSON form of its elements.
* `infer_body` is where JSON and binary tensors share one body.
* `oip` is the Open Inference Protocol V2 over HTTP, with the binary tensor data extension.
* `oip_metadata` is what a server of that protocol says about itself and its models.

What it does not do: routing, authentication, metering, and comparing tensors with what a model takes.
"""
