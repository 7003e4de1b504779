"""Other servers, each run by an interpreter of its own that has its packages: nothing of ours is imported there.

Each module here named after a server is a program: `MODEL PORT THREADS`, which serves the model `m` at
`POST /v2/models/m/infer`, or wherever the server wants it, until it is ended.
"""
