"""Whoever signed what came on a connection is no stranger to the server: enclaves hold no certificate."""

import httpx
from tests.custodian.conftest import Bench, Enclave, message_id
from tests.transport.conftest import all_closed

from aigovtool.codec import Message, encode
from aigovtool.crypto.sign import seal
from aigovtool.custodian.api import custodian_application
from aigovtool.custodian.timekeeping import ledger_clock
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Listen
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import client_context, server_context

JSON = {"content-type": "application/json"}


async def test_an_enclaves_connection_is_proven_by_its_signatures(lent: Bench) -> None:
    """By its challenge, its boot, its key release and its stream; not by an envelope that is refused."""
    keys = lent.custodian.keys
    tls = server_context([keys.tls_certificate], keys.tls, [keys.credentials_ca])
    app = custodian_application(lent.custodian, clock_ms=await ledger_clock(lent.custodian))
    with bind_loopback() as listener:
        async with HttpServer(app, listener, tls) as server:

            async def proven_by(path: str, message: Message) -> tuple[int, int]:
                """Return the status, and how many connections are proven by a key once it has come."""
                url = f"https://127.0.0.1:{server.address[1]}"
                async with (
                    httpx.AsyncClient(base_url=url, verify=client_context([keys.tls_ca]), trust_env=False) as client,
                    client.stream("POST", path, content=encode(message), headers=JSON) as answer,
                ):
                    proven = len(server._clients._proven)
                    if path == "/v1/listen":
                        lent.custodian.hub.cut(enclave.instance)
                    async for _ in answer.aiter_bytes():
                        pass
                await all_closed(server)
                return answer.status_code, proven

            enclave = Enclave(lent)
            assert await proven_by("/v1/boot/challenge", enclave.challenge_request()) == (200, 1)
            forged = enclave.challenge_request(by=enclave.identity)
            assert await proven_by("/v1/boot/challenge", forged) == (403, 0)
            boot = enclave.sealed(enclave.request(enclave.claims(await enclave.challenge())))
            assert await proven_by("/v1/boot", boot) == (200, 1)
            assert await proven_by("/v1/release", enclave.release_request()) == (200, 1)
            listen = Listen(instance=enclave.instance, nonce=message_id(), at_ms=lent.now_ms)
            assert await proven_by("/v1/listen", seal(messages.LISTEN, listen, enclave.identity)) == (200, 1)
