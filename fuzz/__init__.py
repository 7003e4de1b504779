"""Coverage-guided search for evidence that a verifier receives wrongly: `make fuzz`, or `python -m fuzz TEE`.

`harness` is what one process does; it needs atheris (requirements/fuzz.txt), which nothing else here does.
"""
