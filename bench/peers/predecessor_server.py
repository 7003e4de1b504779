"""The predecessor's custodian, in our own words: a counter in a file behind Flask's development server with TLS."""

import json
import sys
from pathlib import Path

from flask import Flask

COUNTER, PORT, CERTIFICATE, KEY = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
application = Flask(__name__)


def _left() -> int:
    with COUNTER.open(encoding="ascii") as file:
        return int(json.load(file)["inferences"])


@application.get("/model")
def ask() -> str:
    """Say how many are left."""
    return str(_left())


@application.post("/consume")
def consume() -> str:
    """Take one off: read, empty the file, write."""
    left = _left() - 1
    with COUNTER.open("w", encoding="ascii") as file:
        json.dump({"inferences": str(left)}, file)
    return str(left)


application.run("127.0.0.1", PORT, ssl_context=(CERTIFICATE, KEY), threaded=True)
