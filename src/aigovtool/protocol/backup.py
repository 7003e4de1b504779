"""A copy of a custodian's ledger over HTTP: the file is the body; the checkpoint of its log comes in a header."""

from typing import Final

#: The signed note, in base64: of the log exactly as it is in the copy.
CHECKPOINT_HEADER: Final = "aigovtool-checkpoint"
#: More than any ledger will grow to: 1 TiB. Whoever fetches one reads no further.
MAX_LEDGER_BYTES: Final = 1 << 40
