"""Small PDFs, written by hand."""

import hashlib
import struct
from dataclasses import dataclass

A4 = (595, 842)
PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


@dataclass
class Page:
    """A page of one colour, (red, green, blue) from 0 to 255, with lines of text."""

    text: str = ""
    color: tuple = (255, 255, 255)
    size: tuple = A4
    rotate: int = 0
    missing: bool = False
    extra: str = ""


def write_pdf(path, pages, password=None, catalog="", objects=()):
    """Writes a PDF by hand. With a password, even an empty one, it is encrypted."""
    fixed = [f"/Type/Catalog/Pages 2 0 R{catalog}", "", "/Type/Font/Subtype/Type1/BaseFont/Helvetica", *objects]
    bodies = dict(enumerate((f"<<{body}>>".encode() for body in fixed), start=1))
    encrypt, trailer = _encryption(password) if password is not None else (lambda number, data: data, "")

    kids = []
    for page in pages:
        number = len(fixed) + 1 + 2 * len(kids)
        kids.append(f"{number} 0 R")
        if page.missing:
            continue

        box, color = "{} {}".format(*page.size), " ".join(str(level / 255) for level in page.color)
        lines = "".join(f"({line}) Tj T* " for line in page.text.split("\n"))
        content = f"{color} rg 0 0 {box} re f 0 g BT /F1 12 Tf 14 TL 20 {page.size[1] - 40} Td {lines}ET"
        content = encrypt(number + 1, content.encode("latin-1"))
        resources = f"/Contents {number + 1} 0 R/Resources<</Font<</F1 3 0 R>>>>{page.extra}"
        bodies[number] = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {box}]/Rotate {page.rotate}{resources}>>".encode()
        bodies[number + 1] = b"<</Length %d>>stream\n%s\nendstream" % (len(content), content)

    bodies[2] = f"<</Type/Pages/Kids[{' '.join(kids)}]/Count {len(kids)}>>".encode()
    data, offsets = b"%PDF-1.4\n", {}
    for number, body in bodies.items():
        offsets[number] = len(data)
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)

    entries = [
        f"{offsets[n]:010} 00000 n \n" if n in offsets else "0000000000 65535 f \n" for n in range(max(offsets) + 1)
    ]
    table = f"xref\n0 {len(entries)}\n{''.join(entries)}trailer<</Size {len(entries)}/Root 1 0 R{trailer}>>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data + f"{table}\nstartxref\n{len(data)}\n%%EOF".encode())


def _encryption(password):
    """The standard security handler of PDF 1.1: RC4 with 40 bits."""
    password, identity = (password.encode() + PADDING)[:32], b"0123456789abcdef"
    owner = _rc4(hashlib.md5(password).digest()[:5], password)
    key = hashlib.md5(password + owner + struct.pack("<i", -4) + identity).digest()[:5]
    user = _rc4(key, PADDING).hex()
    entry = f"<</Filter/Standard/V 1/R 2/P -4/O<{owner.hex()}>/U<{user}>>>"

    def encrypt(number, data):
        return _rc4(hashlib.md5(key + number.to_bytes(3, "little") + bytes(2)).digest()[:10], data)

    return encrypt, f"/Encrypt{entry}/ID[<{identity.hex()}><{identity.hex()}>]"


def _rc4(key, data):
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]

    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])

    return bytes(out)
