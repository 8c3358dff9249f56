"""Reads a mail from standard input and writes its values as JSON."""

import email
import json
import re
import sys
from email.header import decode_header, make_header
from email.utils import getaddresses

mail = email.message_from_bytes(sys.stdin.buffer.read())


def unfold(name):
    return re.sub(r"\r?\n", "", mail.get(name, ""))


def decode(text):
    return str(make_header(decode_header(text)))


def addresses(name):
    return [[decode(person), address] for person, address in getaddresses([unfold(name)])]


parts = [part for part in mail.walk() if not part.is_multipart()]
bodies = {
    part.get_content_type(): part.get_payload(decode=True).decode() for part in parts if part.get_filename() is None
}
json.dump(
    {
        "subject": decode(unfold("Subject")),
        "from": addresses("From"),
        "to": addresses("To"),
        "cc": addresses("Cc"),
        "reply_to": addresses("Reply-To"),
        "files": [part.get_filename() for part in parts if part.get_filename() is not None],
        "bodies": bodies,
    },
    sys.stdout,
)
