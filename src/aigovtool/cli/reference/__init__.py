"""Reference values of enclave builds: `aigovtool reference-values`.

`verb` adds, lists, retires and signs · `library` reads and writes the file.
"""
