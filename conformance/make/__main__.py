"""`python -m conformance.make`: write `conformance/vectors`; with `--check` only say whether anything would change."""
# ruff: noqa: ANN401 - a maker takes any value of any field
# ruff: noqa: T201 - a command line

import argparse
import shutil
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from tests.attestation.tee.snp import maker as snp_maker

from aigovtool.attestation.model import TeeType
from conformance.make import intel, nitro, pss, snp, tpm
from conformance.make.case import Case, Files, listed
from conformance.suite import VECTORS, Vector


def _same_every_time(make: Callable[..., Any], default: str) -> Callable[..., Any]:
    """Return a maker of certificates or lists of AMD's kind that signs again with the deterministic salt."""

    @wraps(make)
    def made(*given: Any, **more: Any) -> Any:
        signer = more.get("signer", given[3] if len(given) > 3 else default)
        return pss.signed_again(make(*given, **more), snp_maker.rsa_key(signer) if isinstance(signer, str) else signer)

    return made


def everything() -> dict[str, bytes]:
    """Return every file below `vectors/` by its name."""
    certify, revocation_list = snp_maker.certify, snp_maker.revocation_list
    # Only this family's keys are of the kind whose signatures are random; its maker looks both up when it needs them.
    snp_maker.certify = _same_every_time(certify, "root")
    snp_maker.revocation_list = _same_every_time(revocation_list, "root")
    try:
        suites: dict[str, list[Case]] = {
            "sev-snp": list(snp.cases()),
            "tdx": list(intel.cases(TeeType.TDX)),
            "sgx": list(intel.cases(TeeType.SGX)),
            "nitro": list(nitro.cases()),
            "tpm": list(tpm.cases()),
        }
    finally:
        snp_maker.certify, snp_maker.revocation_list = certify, revocation_list
    files = Files()
    lists: dict[str, list[Vector]] = {}
    for tee, made in suites.items():
        # Labelled as another TEE's, a bundle is for that one's verifier, and is listed there.
        for case in made:
            lists.setdefault(case.evidence.tee.value, []).append(files.vector(case))
        lists.setdefault(tee, [])
    names = [(tee, vector.name) for tee, vectors in lists.items() for vector in vectors]
    if len(set(names)) != len(names):
        raise ValueError(f"vectors with one name: {sorted({name for name in names if names.count(name) > 1})}")
    return {**files.by_name, **{f"{tee}.json": listed(vectors) for tee, vectors in lists.items()}}


def different(made: dict[str, bytes], folder: Path = VECTORS) -> list[str]:
    """Return the names of files that are missing, superfluous, or others than those that would be made."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    changed = [name for name, content in made.items() if name in there and (folder / name).read_bytes() != content]
    return sorted([*changed, *(there ^ set(made))])


def main() -> int:
    """Write the vectors, or compare them."""
    parser = argparse.ArgumentParser(prog="python -m conformance.make", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something would change")
    made = everything()
    if parser.parse_args().check:
        found = different(made)
        print("\n".join(found) or f"{len(made)} files are as they are made")
        return 1 if found else 0
    shutil.rmtree(VECTORS, ignore_errors=True)
    for name, content in made.items():
        path = VECTORS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"{len(made)} files, {sum(map(len, made.values())):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
