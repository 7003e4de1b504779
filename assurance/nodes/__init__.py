"""The ONNX project's tests of a backend, asked of an enclave: what ONNX Runtime alone gives is what a consumer gets.

`cases` are the tests, `bare` what ONNX Runtime makes of one in this process; `lending` lends a batch of them to one
enclave and asks for each with the consumer's SDK; `comparison` says what differs.
"""
