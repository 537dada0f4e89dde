"""Serves this project's own secure element, applet and TSM to the suite: lines of JSON over a pipe, in a process apart.

The only module of the suite that knows the project's code, and no other module imports it (test of independence): so
what the suite checks with stays its own. `bridge.py` starts it. Byte strings travel in hexadecimal.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from support.world import FixedClock, World, emv_keys

from protocol.card.applet import Applet
from protocol.card.profile import RID, Channel
from protocol.engine import Peer
from protocol.envelope import Wire
from protocol.errors import ProtocolError
from protocol.roles.se.field import Field
from protocol.roles.se.tables import VIRTUAL_CARDS
from protocol.types import Role

TSM, BANK = "tsm-1", "bank-a"


class MovedClock(FixedClock):
    """The system's clock, moved when told."""

    moved_s = 0

    def now_s(self) -> int:
        return int(time.time()) + self.moved_s


class Server:
    """One world, and the phones that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.clock = MovedClock()
        self.world = World(folder, clock=self.clock)
        self.applets: dict[str, Applet] = {}

    def parties(self) -> dict[str, Any]:
        """Who is there: public keys of the TSM, and the private ones of the merchant and the bank that are played."""
        world = self.world
        tsm, bank = world.parties[TSM].value, world.parties[BANK].value
        return {
            "tsm": {"name": TSM, "sign": tsm.keys.sign.public.encoded, "seal": tsm.keys.seal.public.encoded},
            "merchant": {"name": world.merchant.name, "sign": world.merchant.sign.to_bytes()},
            "bank": {"name": BANK, "sign": bank.keys.sign.to_bytes()},
            "emv": {"rid": RID, "index": 1, "modulus": emv_keys()[0].public.to_bytes()},
        }

    def phone(self, cards: int) -> dict[str, Any]:
        """A new phone with an account and so many active cards; what its wallet holds."""
        world = self.world
        phone = world.ready(f"phone-{len(world.phones) + 1}")
        tid = world.service(phone, world.account(phone))
        if cards:
            world.cards(phone, tid, number=cards)
        return {
            "name": phone.name, "user": phone.user, "tid": tid, "wallet": phone.wallet_key.to_bytes(),
            "sign": phone.party.value.key.public.encoded,
        }  # fmt: skip

    def call(self, party: str, rpc: str, cose: str, session: str, peer: str) -> dict[str, Any]:
        """One request to a party, `peer` being the merchant that TLS names."""
        caller = Peer(role=Role.MERCHANT, name=peer) if peer else None
        wire = Wire(cose=bytes.fromhex(cose), session=bytes.fromhex(session))
        reply = self.world.parties[party].engine.handle(rpc, wire, caller)
        return {"cose": reply.cose, "session": reply.session}

    def apdu(self, phone: str, command: str, channel: str) -> dict[str, Any]:
        """One command to the card; another interface than the last one's is another field."""
        place = f"{phone}/{channel}"
        if place not in self.applets:
            holder = Field(store=self.world.phones[phone].party.store, clock=self.clock)
            self.applets[place] = Applet(holder, self.world.entropy, channel=Channel(channel))
        return {"answer": self.applets[place].process(bytes.fromhex(command))}

    def reset(self, phone: str) -> dict[str, Any]:
        """The field is lost."""
        for place, applet in self.applets.items():
            if place.startswith(f"{phone}/"):
                applet.reset()
        return {}

    def wait(self, seconds: int) -> dict[str, Any]:
        """Move the clock."""
        self.clock.moved_s += seconds
        return {}

    def change(self, phone: str) -> dict[str, Any]:
        """Somebody alters the wallet's software on the phone."""
        application = self.world.phones[phone].application
        application.write_bytes(application.read_bytes() + b"#")
        return {}

    def secrets(self, phone: str) -> dict[str, Any]:
        """The keys for cryptograms of a phone's cards, by number: what only SE and TSM know."""
        rows = [row for row in self.world.phones[phone].party.store.scan(VIRTUAL_CARDS) if row.pan]
        return {row.pan: row.k_ac for row in rows}

    def snapshot(self, party: str) -> dict[str, Any]:
        """All rows of a party."""
        return {"rows": repr(self.world.snapshot(party))}


def plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.hex() if isinstance(value, bytes) else value


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        for line in sys.stdin:
            order = json.loads(line)
            method = getattr(server, order.pop("order"))
            try:
                answer = plain(method(**order))
            except ProtocolError as refusal:
                answer = {"code": refusal.code, "status": refusal.status}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
