"""A program that asks on and on, through a gateway or with the library, and goes by what it is told."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import requests
from numpy.typing import NDArray
from tests.e2e.world import MODEL

from aigovtool.consumer import Client
from aigovtool.errors import AIGovToolError
from aigovtool.ledger.receipt import Receipt


class Refusal(NamedTuple):
    """Why there is no answer; and whether it was said what to do, or when to come again."""

    status: int
    code: str
    reason: str
    explained: bool


#: Asks once under an id.
Ask = Callable[[str], Refusal | None]


def through(url: str, body: bytes) -> Ask:
    """Ask a gateway, over a connection that is used again."""
    session = requests.Session()

    def ask(request_id: str) -> Refusal | None:
        fields = {"aigovtool-request-id": request_id}
        answer = session.post(f"{url}/v2/models/{MODEL}/infer", data=body, headers=fields, timeout=90)
        if answer.status_code == 200:
            return None
        told = answer.json()
        explained = bool(told.get("error")) and (bool(told.get("fix")) or "retry-after" in answer.headers)
        return Refusal(answer.status_code, told["code"], told.get("reason") or "", explained)

    return ask


def by_library(client: Client, given: NDArray[np.float32], receipts: list[Receipt]) -> Ask:
    """Ask with the library, and keep the receipts."""

    def ask(request_id: str) -> Refusal | None:
        try:
            receipts.append(client.infer(MODEL, given, request_id=request_id).receipt.receipt)
        except AIGovToolError as error:
            explained = bool(error.message) and (bool(error.fix) or error.retry_after_s is not None)
            return Refusal(error.status, error.code, error.reason or "", explained)
        return None

    return ask


class Program(threading.Thread):
    """What is not answered it asks for again under its id, unless that could be charged twice."""

    def __init__(self, ask: Ask, number: int) -> None:
        super().__init__()
        self.ask, self.number = ask, number
        self.answered: list[str] = []
        self.unknown: list[str] = []
        self.refused: set[Refusal] = set()
        self.ends = False

    def run(self) -> None:
        """Ask until it is told to end."""
        count = 0
        while not self.ends:
            count += 1
            self._ask(f"p{self.number}-{count}")

    def _ask(self, request_id: str) -> None:
        while True:
            refusal = self.ask(request_id)
            if refusal is None:
                self.answered.append(request_id)
                return
            self.refused.add(refusal)
            if refusal.reason == "retry_may_charge":
                self.unknown.append(request_id)
                return
            if self.ends:
                return
            time.sleep(0.05)


def end_all(programs: list[Program]) -> None:
    """Have all of them end, and wait for it."""
    for one in programs:
        one.ends = True
    for one in programs:
        one.join(120)
