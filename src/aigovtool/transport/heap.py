"""What a server's process holds for good, which Python's garbage collector need not look at again.

A process that has begun holds tens of thousands of objects: modules, their classes and functions, routes, certificates.
A full collection walks through all of them, for twenty to sixty milliseconds in which nothing is answered, some
seconds apart under load. Frozen objects are left out (`gc.freeze`), and still end with their last reference.
"""

import gc


def settle() -> None:
    """Collect once, and leave out from then on what is left; call it when a server has all that it serves with.

    It may be called again, after which the whole heap has been looked at anew: what an enclave held before it attested
    again is not kept for having been frozen.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
