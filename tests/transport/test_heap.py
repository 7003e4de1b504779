"""What a server holds for good is not walked through again, and nothing is kept for that."""

import subprocess
import sys

_PROGRAM = """
import gc, weakref
from aigovtool.transport import heap

class Held:
    def __init__(self):
        self.itself = self  # a cycle: only a collection ends it

gc.disable()
held = Held()
first = weakref.ref(held)
heap.settle()
assert gc.get_freeze_count() > 1_000, gc.get_freeze_count()
assert len(gc.get_objects()) < gc.get_freeze_count() / 10, len(gc.get_objects())
held = Held()
second = weakref.ref(held)
assert first() is not None  # frozen before its last reference was gone
del held
gc.collect()
assert second() is None
heap.settle()
assert first() is None
"""


def test_a_settled_heap_is_left_out_of_collections_until_it_is_settled_again() -> None:
    """In a process of its own. A frozen cycle waits for the next time, what is made later for the next collection."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
