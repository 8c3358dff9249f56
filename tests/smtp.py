"""A mail server for tests: python smtp.py FOLDER MODE, with MODE one of starttls, implicit, plain, ascii (plain without SMTPUTF8).

With TLS it writes the certificate of its authority to FOLDER/ca.pem. It writes each mail that it took to FOLDER/mails/N.json, prints its
port, and serves until its standard input ends. FOLDER/asked lists the recipients that it was asked for. Some recipients make it misbehave:
defer@ is put off, grey.a@ the first time only, refuse@ is unknown, bounce@ is refused after the text, drop@ loses the connection after the text,
full@ has no room for the text,
hang@ never gets an answer, slow7@ gets one after seven seconds, once7.a@ the first time only.
"""

import asyncio
import base64
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
mails = folder / "mails"
mails.mkdir()
context = None
if mode != "plain":
    # Importing it and making keys takes longer than the rest of a start.
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)


class Handler:
    connections = 0
    known = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        user = address.split("@")[0]
        with (folder / "asked").open("a") as asked:
            asked.write(f"{address}\n")
        if user == "defer" or user.startswith("grey") and user not in self.known:
            self.known.add(user)
            return "451 4.7.1 come back later"
        if user == "refuse":
            return "550 5.1.1 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        user = envelope.rcpt_tos[0].split("@")[0]
        if user == "full":
            return "452 4.2.2 no room left"
        if user == "bounce":
            return "554 5.7.1 it looks like spam"
        seen = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "content": base64.b64encode(envelope.original_content).decode(),
            "peer": session.peer[1],
            "tls": session.ssl is not None or mode == "implicit",
            "smtputf8": bool(envelope.smtp_utf8),
            "user": session.auth_data.decode() if session.auth_data else None,
        }
        path = mails / f"{len(list(mails.iterdir()))}.json"
        path.with_suffix(".tmp").write_text(json.dumps(seen))
        path.with_suffix(".tmp").rename(path)
        if user == "drop":
            server.transport.abort()
        if user.startswith("slow"):
            await asyncio.sleep(int(user.removeprefix("slow")))
        if user.startswith("once") and user not in self.known:
            self.known.add(user)
            await asyncio.sleep(int(user.removeprefix("once").split(".")[0]))
        if user == "hang":
            await asyncio.sleep(3600)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    if data.login == b"echo":
        # Some servers quote what they were told.
        said = f"535 5.7.8 nobody is called {data.login.decode()} with {data.password.decode()}"
        return AuthResult(success=False, handled=False, message=said)
    good = (data.login, data.password) == (b"afterload", b"the password of the tests")
    return AuthResult(success=good, handled=good, auth_data=data.login)


async def main():
    handler = Handler()
    more = {"starttls": {"tls_context": context, "require_starttls": True}}.get(mode, {})
    if mode not in ("plain", "ascii"):
        more |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": mode == "starttls"}
    serve = asyncio.get_running_loop().create_server
    server = await serve(
        lambda: SMTP(handler, enable_SMTPUTF8=mode != "ascii", **more),
        "127.0.0.1",
        0,
        ssl=context if mode == "implicit" else None,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
