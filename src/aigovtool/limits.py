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
# Such bodies under way at a custodian: those of one caller, and all. A small one is never refused for others' large
# ones: on all 2,000 connections they take as much again as one caller may.
MAX_CONTROL_BODIES_BYTES: Final = 128 << 20
MAX_CONTROL_BODIES_BYTES_PER_CALLER: Final = 32 << 20
MAX_SMALL_BODY_BYTES: Final = 16 << 10
# Our deepest document is 7 levels; Python's own recursion limit would be reached near 1,000.
MAX_JSON_DEPTH: Final = 24

# --- Evidence --------------------------------------------------------------------------------
# The largest real bundles seen, quotes with their collateral or with the digests of an event log, are under 64 KiB; a
# revocation list can grow to as much again.
MAX_EVIDENCE_BYTES: Final = 192 << 10
# A platform key's chain is at most four certificates; Intel's collateral is nine parts.
MAX_ENDORSEMENTS: Final = 16
# A vendor's list of revoked platform keys: Intel's has some hundred entries of 40 bytes.
MAX_REVOCATION_LIST_BYTES: Final = 128 << 10
# Events measured into one register. Firmware of servers measures some hundred, a kernel with many modules a thousand.
MAX_EVENTS: Final = 4096
# Manifests bound into one report: as many packages as one enclave could hold in memory, and more.
MAX_BOUND_MANIFESTS: Final = 64
# Entries, sets of reference values, allowed chips: lists that people write in an appraisal policy.
MAX_POLICY_ITEMS: Final = 256
# Nonces under one quote: as many consumers as ask within the second that a slow platform takes for it.
MAX_SHARERS: Final = 256
# RATS freshness: a nonce is used once and soon; a boot needs one round trip after receiving it.
NONCE_TTL_MS: Final = 60_000
MAX_OUTSTANDING_NONCES: Final = 10_000
# Of one borrower, whose name is no secret: others must still be able to boot.
MAX_OUTSTANDING_NONCES_PER_BORROWER: Final = 100
# Used or not, of one borrower in ten minutes: each boot is verified, and a line of the log for ever. A hundred enclaves
# that boot three times each after a failure of their power are within it; one that crashes and boots in a loop is not.
MAX_NONCES_PER_BORROWER: Final = 300
NONCE_WINDOW_MS: Final = 10 * NONCE_TTL_MS

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
# Our own ONNX reader takes about 2 us per field: half a minute at worst. Runs of numbers in one attribute count as one,
# so a tree ensemble with ten million nodes stays far below.
MAX_ONNX_FIELDS: Final = 1 << 24
# Subgraphs within subgraphs; exporters write two or three levels.
MAX_ONNX_DEPTH: Final = 16
# Names and external locations. Exporters write scope paths of some hundred bytes.
MAX_ONNX_NAME_BYTES: Final = 1024
# The names of initializers are kept during the walk: 64 MiB at worst. Large language models have thousands.
MAX_ONNX_INITIALIZERS: Final = 1 << 16

# --- HTTP ------------------------------------------------------------------------------------
# Request line plus headers. Real clients send well under 4 KiB.
MAX_HEADER_BYTES: Final = 16 << 10
MAX_HEADERS: Final = 64
# One connection may wait this long for a complete request head, and between two of its bytes.
HEADER_TIMEOUT_S: Final = 10.0
BODY_IDLE_TIMEOUT_S: Final = 20.0
MAX_CONNECTIONS: Final = 2_000
# Of one credential, however many certificates it has: an eighth. Our SDK opens 64 at most, so these are the pools of
# nearly four programs, and as many as requests of one consumer may wait.
MAX_CONNECTIONS_PER_CLIENT: Final = MAX_CONNECTIONS // 8
# Requests of one client, or of one address, that are begun before others are looked at: some milliseconds. It is no
# rate: the next ones follow at once where nobody else has any.
MAX_REQUESTS_IN_A_ROUND: Final = 8
# Connections that have proven nothing, neither by a certificate nor by a signature: a quarter. An enclave holds no
# certificate, so it is a stranger until its first signed request on a connection is answered, some 20 ms: 500 are those
# of far more enclaves than can shake hands in a second. What lasts (a push stream, a connection between two renewals)
# is proven. Their places are given to newcomers, so they need not be many.
MAX_STRANGERS: Final = MAX_CONNECTIONS // 4
# Of one address, half, as of handshakes: it may be that of many enclaves behind a gateway. When it has them all, each
# newcomer ends the oldest that is silent. Some 1,000 handshakes a second are the most that a server can do, so an
# honest one has a quarter of a second to send its request even where all others of its address are hostile.
MAX_STRANGERS_PER_ADDRESS: Final = MAX_STRANGERS // 2
# Who gets no place may stay for LINGER_S to read why, but not more than so many: the others are just closed.
MAX_REFUSALS_TOLD: Final = 64
# A stranger's body must come at least so fast, once it has had as long as a head may take: the largest that is taken
# without a certificate, 1 MiB, in 74 s, over a line that takes a renewal of 400 KiB in 25 s. A dripping one ends then.
STRANGER_BODY_GRACE_S: Final = HEADER_TIMEOUT_S
STRANGER_BODY_BYTES_PER_S: Final = 16 << 10
# One line in the log of each address that is turned away, in so many seconds, and of so many addresses: a hundred lines
# a minute are read by nobody, but they do not fill a disk either (20 MB a day).
NOTICE_PERIOD_S: Final = 60.0
MAX_NOTICED_ADDRESSES: Final = 100
# Different things in one such line, of some two hundred reasons that there are: whoever tries more of them is known.
MAX_NOTICED_KINDS: Final = 24
# One value in a line of the log, and the values beside the event. Ours have some hundred characters; what comes from a
# library, or is longer than anybody reads, must not fill the disk. Lines stay under 32 KiB, also where all is escaped.
MAX_LOG_VALUE_CHARS: Final = 1_000
MAX_LOG_VALUES: Final = 12
# Handshakes cost a signature each and prove nothing yet, so far fewer may be under way at once.
MAX_HANDSHAKES: Final = 256
# Of one address. It may be that of many clients (a gateway, a load balancer that passes TCP), so it is half: 128 of
# 100 ms each are more than a server can sign for.
MAX_HANDSHAKES_PER_ADDRESS: Final = MAX_HANDSHAKES // 2
TLS_HANDSHAKE_TIMEOUT_S: Final = 10.0
# Where there is no place left, a new handshake gets that of one which has taken longer than this: several round trips
# over a satellite. So whoever sends nothing needs 128 sockets a second to be in the way, not 13; and of those who come
# from elsewhere, 256 from as many addresses: whoever has fewer gets the place of one that has more at once.
TLS_HANDSHAKE_PATIENCE_S: Final = 1.0
# A proven client may keep its attested connection between requests; an anonymous one gets the head deadline.
KEEP_ALIVE_S: Final = 120.0
# A whole body, however steadily it drips: 64 MiB at 0.5 MiB/s.
BODY_DEADLINE_S: Final = 128.0
# A reader that takes nothing for this long loses the connection, so that it cannot pin its answer in memory.
WRITE_STALL_TIMEOUT_S: Final = 30.0
# After a refusal the rest of the input is thrown away this long: closing at once would reset the
# connection, and the peer might never see why it was refused.
LINGER_S: Final = 1.0
# Our client certificates are under 600 bytes, and a private key in PEM is under 300.
MAX_CERTIFICATE_BYTES: Final = 16 << 10
MAX_KEY_FILE_BYTES: Final = 64 << 10

# --- Inference -------------------------------------------------------------------------------
# What an enclave holds in all, and of one consumer, is less on a machine with little memory (`enclave.memory`).
# 64 MiB holds 100 ImageNet pictures as float32; a model's policy may lower it.
MAX_INFER_BODY_BYTES: Final = 64 << 20
MAX_TENSORS: Final = 64
MAX_TENSOR_RANK: Final = 16
MAX_TENSOR_ELEMENTS: Final = 1 << 26
# Elements of BYTES are walked one by one in Python: a million take 0.3 s, 2**26 would take 20 s. So this is for all
# tensors of a body together.
MAX_BYTES_ELEMENTS: Final = 1 << 20
# ONNX exporters write paths such as "/encoder/layer.11/output/LayerNorm/Add_1_output_0"; 256 is four of them.
MAX_TENSOR_NAME_CHARS: Final = 256
# Parsed JSON takes up to 30 times its text (a short string is an object of 50 bytes): 250 MiB and 2 s measured
# here. 8 MiB holds two 224 x 224 colour pictures as printed float32; more belongs in the binary form.
MAX_INFER_JSON_BYTES: Final = 8 << 20
# Arrays and objects in that JSON. The parser makes them without letting any other thread run: 8 MiB of `[],` took
# 1.1 s, this many take 0.1 s. One such picture, nested as its shape says, has 50,000.
MAX_INFER_JSON_LISTS: Final = 1 << 18
# The id of an inference is echoed in its answer; a UUID has 36 characters.
MAX_INFER_ID_CHARS: Final = 256
MAX_INFER_DEADLINE_MS: Final = 300_000
# How many runs whoever runs an enclave may have its engine compute at once.
MAX_RUNS_AT_ONCE: Final = 64
# And how many threads it may have for one of them.
MAX_THREADS_PER_RUN: Final = 64
# What a model's terms say of its answers: some twenty outputs by their names. Those of all models of an enclave travel
# with each answer to a renewal, 64 KiB at most, where there is less room for other things then.
MAX_ANSWER_TERMS_BYTES: Final = 1_000
# Sizes to which answers can be padded: powers of two up to the last of these, then its multiples. Padding is JSON, and
# of that clients read 8 MiB: so the steps between large sizes are half of it.
MIN_PADDING_BYTES: Final = 1 << 10
MAX_PADDING_BYTES: Final = 4 << 20
# Answers that were made and that their consumers have not taken: two of the largest for one consumer, eight in all. Who
# has less than the last of these is always served: that is thousands of usual answers.
MAX_UNREAD_BYTES_PER_CONSUMER: Final = 2 * MAX_INFER_BODY_BYTES
MAX_UNREAD_BYTES: Final = 8 * MAX_INFER_BODY_BYTES
UNREAD_BYTES_OF_ANYBODY: Final = 1 << 20

# Results kept for a repeated request id: ten minutes, and bytes per consumer and in all (leases spec 7). The largest
# answer of one consumer fits; eight consumers may fill their shares before one drops another's oldest.
RESULT_RETENTION_MS: Final = 600_000
MAX_RETAINED_RESULT_BYTES: Final = 64 << 20
MAX_RETAINED_RESULT_BYTES_IN_ALL: Final = 512 << 20
# Ids that were used in the last ten minutes, chosen by consumers: 30,000 requests a second of one consumer. An id
# without its answer takes some 14 bytes: 320 MiB at most. Ids that the enclave makes are not remembered. Who has fewer
# than the last of these is served also when others have used up all: 14 KB each, and each id is one that was paid for.
MAX_REQUEST_IDS_PER_CONSUMER: Final = 18_000_000
MAX_REQUEST_IDS: Final = 24_000_000
REQUEST_IDS_OF_ANYBODY: Final = 1_000
# Sealed requests whose heads are remembered, so that whoever passes them on cannot pass one on twice: 1,500 a second
# for the eleven minutes that each is remembered, 14 bytes each. One consumer may have half; who has fewer than
# REQUEST_IDS_OF_ANYBODY is served also when all are taken.
MAX_SEALED_REQUESTS: Final = 1_000_000
# Certificates of consumers whose issuer was looked at, of those whose requests come sealed.
MAX_KNOWN_CREDENTIALS: Final = 1_024
# Requests that wait for units, up to a minute, also when their clients are gone. A consumer with more than this many
# parallel requests and no units left is told so at once.
MAX_WAITING_REQUESTS_PER_CONSUMER: Final = 256
MAX_WAITING_REQUESTS: Final = 2_048
# Bodies that are being read, wait or are computed, and what was made of their JSON: four of the largest for one
# consumer, sixteen in all.
MAX_OPEN_BODY_BYTES_PER_CONSUMER: Final = 4 * MAX_INFER_BODY_BYTES
MAX_OPEN_BODY_BYTES: Final = 16 * MAX_INFER_BODY_BYTES
# Runs of one consumer and model that failed by what was asked, at once, and the time that makes up for one. Each tells
# one bit at most and is charged nothing: 86,400 bits a day, where a model has millions. Who has odd inputs now and then
# never gets so far.
MAX_FAILED_RUNS: Final = 60
FAILED_RUN_MS: Final = 1_000
# Consumers and models of which that is remembered at a time: half a megabyte.
MAX_FAILED_RUNS_KEPT: Final = 4_096
# What is larger than this is not parsed, walked or hashed on the event loop: at the worst it would take 6 ms there (a
# text of empty strings). Nor more than two such of one consumer before others: it may have 250 connections.
MAX_ON_LOOP_BYTES: Final = 16 << 10
# Threads for it. The interpreter runs one at a time, so a third would only wait; a consumer has one at a time, so that
# there is one for others while it parses for a second.
MAX_LARGE_AT_ONCE: Final = 2
# What is not larger than this takes 25 ms at the worst. It has one more thread: it never waits for what takes a second.
MAX_SHORT_BYTES: Final = 64 << 10
# Requests that the engine has, and the bytes of their inputs: a quarter of each at most for one consumer, so that it
# takes four to fill it. One alone gets 256 places for a few threads, and all the bodies that it may have open: as much
# of the machine as it would have without a share. The bytes are those of open bodies, and take no memory again.
MAX_ENGINE_REQUESTS: Final = 1_024
MAX_ENGINE_REQUESTS_PER_CONSUMER: Final = MAX_ENGINE_REQUESTS // 4
MAX_ENGINE_BYTES: Final = MAX_OPEN_BODY_BYTES
MAX_ENGINE_BYTES_PER_CONSUMER: Final = MAX_ENGINE_BYTES // 4

# --- Leases ----------------------------------------------------------------------------------
MAX_REPORTS_PER_RENEWAL: Final = 1_000
MAX_WANTS_PER_RENEWAL: Final = 1_000
# Paths of which an answer tells what is left: with a thousand grants beside them it stays under 1 MiB.
MAX_ROOMS_PER_ANSWER: Final = 250
# Why something is ordered or asked for: a long paragraph. More is read by nobody, and kept for ever.
MAX_REASON_CHARS: Final = 500
# Units that people can be asked for at once.
MAX_ASKED: Final = 10**12

# --- Receipts --------------------------------------------------------------------------------
# A signed receipt travels in one response header: about 1.6 KiB, with an audit path of 20 hashes under 3 KiB.
MAX_RECEIPT_BYTES: Final = 8 << 10
# A saved receipt: the largest evidence as base64 (256 KiB), a key set of at most as much again, a receipt.
MAX_SAVED_RECEIPT_BYTES: Final = 512 << 10

# --- Witnesses -------------------------------------------------------------------------------
# With the log's own signature that makes 16, which every reader of signed notes must accept. With the longest names
# they take 15 * 210 of the 4,096 bytes of a note.
MAX_WITNESSES: Final = 15
# A verifier key: a name of 100, two signs, 8 digits, 33 bytes in base64.
MAX_WITNESS_KEY_CHARS: Final = 160
