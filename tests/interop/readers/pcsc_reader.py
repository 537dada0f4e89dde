"""The merchant's PC/SC link as a pipe. Runs in `.interop/readers`. Usage: pcsc_reader.py READER

First line out: "ready", or "refused CODE detail". Then per line in, a command in hex: "answer HEX" or "lost".
"""

import sys

from parties.links.pcsc import PcscLink
from protocol.card.outcome import CardLost
from protocol.errors import ProtocolError


def main() -> None:
    try:
        link = PcscLink(sys.argv[1])
    except ProtocolError as exc:
        print("refused", exc.code, exc, flush=True)
        return
    except CardLost as exc:
        print("lost", exc, flush=True)
        return
    with link:
        print("ready", flush=True)
        for line in sys.stdin:
            try:
                print("answer", link.transmit(bytes.fromhex(line)).hex(), flush=True)
            except CardLost:
                print("lost", flush=True)


main()
