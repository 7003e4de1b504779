"""HTTP over mutual TLS, as every role serves it.

`wire` strict framing of requests, no I/O · `connection` who is at the other end · `guard` uvicorn's
protocol behind `wire`, with deadlines · `server` accepts on a socket, starts and stops · `body` bounded
request bodies · `tls` SSL contexts · `problem` errors as problem+json · `routes` the deny-by-default
table · `openapi` its description.
"""
