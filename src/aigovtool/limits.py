"""Every bound on input from outside, with its unit in the name and its reason beside it.

A bound is checked before the bytes are parsed or the memory is allocated (leases spec, rule 9).
"""

from typing import Final

# --- Numbers -------------------------------------------------------------------------------
# Integers beyond 2**53 are not exact in every JSON implementation (RFC 8259 section 6), so two
# parties could read different numbers out of the same signed bytes.
MAX_INTEGER: Final = 2**53 - 1

# --- Control-plane JSON ----------------------------------------------------------------------
# A renewal with 1,000 reports is about 400 KiB; nothing else in the control plane comes near.
MAX_CONTROL_BODY_BYTES: Final = 1 << 20
# Our deepest document is 7 levels; Python's own recursion limit would be reached near 1,000.
MAX_JSON_DEPTH: Final = 24

# --- Evidence --------------------------------------------------------------------------------
# The largest real bundle seen, a TPM quote with a firmware event log, is under 50 KiB.
MAX_EVIDENCE_BYTES: Final = 64 << 10
# RATS freshness: a nonce is used once and soon; a boot needs one round trip after receiving it.
NONCE_TTL_MS: Final = 60_000
MAX_OUTSTANDING_NONCES: Final = 10_000

# --- Packages --------------------------------------------------------------------------------
# 1 MiB segments: AES-GCM runs at full speed from there on, and memory stays small (sealing holds
# two of them).
SEGMENT_BYTES: Final = 1 << 20
# A manifest lists files, inputs and outputs: 1 MiB is thousands of each.
MAX_MANIFEST_BYTES: Final = 1 << 20
# 256 GiB. Segment counters are 32 bits, so the format itself allows far more.
MAX_PACKAGE_BYTES: Final = 256 << 30
MAX_PACKAGE_FILES: Final = 1024
# The ONNX graph without its weights; protobuf itself refuses 2 GiB.
MAX_ONNX_BYTES: Final = (1 << 31) - 1

# --- HTTP ------------------------------------------------------------------------------------
# Request line plus headers. Real clients send well under 4 KiB.
MAX_HEADER_BYTES: Final = 16 << 10
MAX_HEADERS: Final = 64
# One connection may wait this long for a complete request head, and between two of its bytes.
HEADER_TIMEOUT_S: Final = 10.0
BODY_IDLE_TIMEOUT_S: Final = 20.0
MAX_CONNECTIONS: Final = 2_000

# --- Inference -------------------------------------------------------------------------------
# 64 MiB holds 100 ImageNet pictures as float32; a model's policy may lower it.
MAX_INFER_BODY_BYTES: Final = 64 << 20
MAX_TENSORS: Final = 64
MAX_TENSOR_RANK: Final = 16
MAX_TENSOR_ELEMENTS: Final = 1 << 26
MAX_INFER_DEADLINE_MS: Final = 300_000
# Results kept for a repeated request id: ten minutes and a byte cap per consumer (leases spec 5).
RESULT_RETENTION_MS: Final = 600_000
MAX_RETAINED_RESULT_BYTES: Final = 64 << 20

# --- Leases ----------------------------------------------------------------------------------
MAX_REPORTS_PER_RENEWAL: Final = 1_000
MAX_WANTS_PER_RENEWAL: Final = 1_000
