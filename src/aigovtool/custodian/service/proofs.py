"""Proofs of the audit log: that an entry is in it, and that one state of it extends another.

A proof reads O(log n) stored subtrees, together, however long the log is. Proofs are hashes and go to anybody who asks,
in the line of those who are not known; an entry itself goes to operators, and the grant of a lease to the consumer and
the borrower whose lease it is.
"""

from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service.asks import party_of
from aigovtool.custodian.store import leases, log
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import NotFoundError
from aigovtool.ids import LeaseId
from aigovtool.ledger.merkle import consistency_path, inclusion_path
from aigovtool.ledger.proof import EntryProof
from aigovtool.protocol.views import ConsistencyProof, InclusionProof


async def inclusion(custodian: Custodian, index: int, size: int) -> InclusionProof:
    """Return the audit path of entry `index` in the tree of `size` entries.

    Raises:
        LogError: there is no such entry, or the log never had so many.
        OverloadedError: too many ask at this moment.
    """

    def job(transaction: Transaction) -> InclusionProof:
        root = log.root_at(transaction, size)
        path = log.proof(transaction, lambda node: inclusion_path(node, index, size))
        return InclusionProof(path=path, root=root)

    return await custodian.database.run_open(job)


async def consistency(custodian: Custodian, old_size: int, size: int) -> ConsistencyProof:
    """Return the proof that the tree of `size` entries extends that of `old_size`.

    Raises:
        LogError: unless 0 < old_size <= size <= the number of entries.
        OverloadedError: too many ask at this moment.
    """

    def job(transaction: Transaction) -> ConsistencyProof:
        root, old_root = log.root_at(transaction, size), log.root_at(transaction, old_size)
        path = log.proof(transaction, lambda node: consistency_path(node, old_size, size))
        return ConsistencyProof(path=path, old_root=old_root, root=root)

    return await custodian.database.run_open(job)


async def lease(custodian: Custodian, identity: Identity, lease_id: LeaseId) -> EntryProof:
    """Return the grant of a lease with its proof, to whom it concerns.

    Raises:
        NotFoundError: there is no such lease, or it is somebody else's (an outsider cannot tell which).
    """

    def job(transaction: Transaction) -> EntryProof:
        party = party_of(transaction, identity)
        found, index = leases.find(transaction, lease_id), leases.entry_of(transaction, lease_id)
        own = found is not None and (
            identity.kind is IdentityKind.OPERATOR
            or (identity.kind is IdentityKind.CONSUMER and found.consumer == party.name)
            or (identity.kind is IdentityKind.BORROWER and found.borrower == party.name)
        )
        if not own or index is None:
            raise NotFoundError("there is no such lease of yours", reason="no_such_lease")
        size = transaction.head.frontier.size
        return EntryProof(
            entry=log.entry_at(transaction, index),
            index=index,
            path=log.proof(transaction, lambda node: inclusion_path(node, index, size)),
            checkpoint=custodian.checkpoint(transaction),
        )

    return await custodian.database.run(job)
