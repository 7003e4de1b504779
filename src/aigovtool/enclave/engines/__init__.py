"""The engine child: the only process that ever holds a model key or plaintext weights.

Parent: `process` (asyncio), with `spawn`, `link` and `pending` · `interface` what a model takes and gives, checked
before anything is charged. Between them: `ipc` the frames. Child: `worker`, with `channel`, `opening`, `rehearsal` and
`watchdog` · `sandbox` and `seccomp` what it may still do · `engine` what an engine is · `onnx` ONNX Runtime.

The parent never imports an inference library. Decision record: docs/adr/0004-engine-child.md.
"""
