"""Makes keys for DKIM, and verifies mails with them: verify_dkim.py keys FOLDER, or verify_dkim.py verify KEY NAME.

`keys` writes rsa.pem and ed25519.pem. `verify` reads a mail from standard input, and takes the public key of KEY for the
record NAME. It prints the verdict and the signed headers as JSON.
"""

import base64
import json
import pathlib
import re
import sys

import dkim
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)


def make_keys(folder):
    keys = {"rsa": rsa.generate_private_key(65537, 2048), "ed25519": ed25519.Ed25519PrivateKey.generate()}
    for name, key in keys.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(pem)


def record_of(pem):
    public = load_pem_private_key(pem, None).public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        kind, value = "ed25519", public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        kind, value = "rsa", public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=" + kind.encode() + b"; p=" + base64.b64encode(value)


def verify(key, name, mail):
    record = record_of(key.read_bytes())
    asked = []

    def find_record(asked_name, timeout=5):
        asked.append(asked_name.decode().rstrip("."))
        return record if asked[-1] == name else None

    verdict = dkim.verify(mail, dnsfunc=find_record)
    header = mail.split(b"DKIM-Signature:", 1)[1]
    signed = re.search(rb"h=([^;]*);", header)[1]
    names = [part.strip().decode() for part in signed.split(b":")]
    print(json.dumps({"verdict": verdict, "asked": asked, "signed": names}))


if sys.argv[1] == "keys":
    make_keys(pathlib.Path(sys.argv[2]))
else:
    verify(pathlib.Path(sys.argv[2]), sys.argv[3], sys.stdin.buffer.read())
