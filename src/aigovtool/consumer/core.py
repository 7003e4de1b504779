"""The SDK's behaviour, once, without sockets: the flows that `Client` and `AsyncClient` drive.

Connections to the enclave (steps 1 to 7 of trusting it are in `attest`):

8. Everything but the challenge uses connections pinned to exactly the attested certificate.
9. When the enclave shows another certificate (it rebooted), or the attestation is too old, or it does not cover a model
   that is asked for, one fresh attestation replaces it; a model without a pin stays at the digest first seen.

Repeating an inference (`RetryMayCharge`): an instance recognises its own request ids, so a repetition there is charged
once. Another instance, also the same host after a reboot, cannot know them, and would charge again. A request whose
outcome is unknown is therefore repeated on the same instance only, unless the client was made with
`retry="may-charge"`. What is certain not to have been received is free to go anywhere.

What it does not do: it does not persist anything. Another process does not know which outcomes are unknown, and
starts with the digests and the key set number that its caller gives it.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from aigovtool.attestation.model import ResultBody
from aigovtool.codec import Message, decode
from aigovtool.consumer.attest import Moment, Session, Trust, fetch_session, read_session
from aigovtool.consumer.budget import ask_call, ask_of, own_call, state_call
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.exchange import Call, Channel, Failure, FailureKind, Flow, Peer, Reply, Wait, exchange
from aigovtool.consumer.inference import PreparedRequest, prepare, read_answer
from aigovtool.consumer.patience import Deadline, passes, pause_s
from aigovtool.consumer.problems import error_of
from aigovtool.consumer.result import ModelInfo, Result
from aigovtool.errors import (
    AIGovToolError,
    ConflictError,
    DeadlineError,
    EngineError,
    EvidenceError,
    FaultError,
    IdentityError,
    InputError,
    InvalidValueError,
    NotFoundError,
    OverloadedError,
    RefusalError,
    UnreachableError,
)
from aigovtool.ids import Digest, InstanceId, MessageId, ModelId, Nonce, RequestKey, parse_name
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol.commands import AskState
from aigovtool.protocol.oip_metadata import ModelMetadata
from aigovtool.protocol.trust import KeySet
from aigovtool.protocol.views import OwnView

T = TypeVar("T", bound=Message)

_LOG: Final = logging.getLogger(__name__)
_ENCLAVE: Final = "the enclave"
_CUSTODIAN: Final = "the custodian"
#: Requests whose outcome is unknown are remembered; the oldest are forgotten beyond this many.
MAX_UNKNOWN_OUTCOMES: Final = 4096
