"""The engine child: the only process that ever holds a model key or plaintext weights.

`process` the parent's side (asyncio), with `spawn` and `link` · `ipc` the frames between them · `interface` what a
model takes and gives, checked before anything is charged · `worker` the child's side, with `channel` · `sandbox` and `seccomp` what the
child may still do · `engine` what an engine is · `onnx` the ONNX Runtime engine, with `watchdog`.

`worker`, `rehearsal`, `opening` and `onnx` run in the child only: the parent never imports an inference library.
Decision record: docs/adr/0004-engine-child.md.
"""
