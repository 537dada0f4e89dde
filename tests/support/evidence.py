"""Two users who bought at one stall, bundles of evidence about it, and all that can be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support.claims import Desk
from support.counter import TSM
from support.settling import pay, settle
from support.shop import SHOP, Stall
from support.skimmer import shopper
from support.world import START_S, YEAR_S, FixedClock, Party, World

from protocol import cose, pki
from protocol.crypto import PrivateKey
from protocol.evidence.bundle import Bundle
from protocol.evidence.bundle_checks import verify_bundle
from protocol.evidence.bundle_export import export_purchase, export_sale
from protocol.evidence.bundle_verdict import Verdict
from protocol.pki import Use
from protocol.roles.merchant.tables import TERMINAL_KEYS
from protocol.roles.se.tables import SERVICE_KEYS
from protocol.types import Role

BANK = "bank-a"
ANY = 1 << 20


@dataclass
class Scene:
    """A world in which two users bought, their banks accepted claims, and the stall was paid."""

    world: World
    stall: Stall
    sales: list[bytes] = field(default_factory=list)

    @classmethod
    def play(cls, folder: Path, seed: str, users: int = 2, now_s: int = START_S) -> Scene:
        world = World(folder, seed=seed, clock=FixedClock(now_s))
        scene = cls(world=world, stall=Stall.open(world))
        world.add_tsm("tsm-2")
        world.certified("shop-2", Role.MERCHANT)
        for number in range(1, users + 1):
            phone, tid = shopper(world, f"phone-{number}", number=3)
            scene.sales.append(pay(scene.stall, phone, tid, 11_000 + number))
            settle(scene.stall)
        Desk(world).claim()
        return scene

    @property
    def tsm(self) -> Party:
        return self.world.parties[TSM]

    @property
    def root(self) -> bytes:
        return self.world.root.certificate

    @property
    def now_s(self) -> int:
        return self.world.clock.now_s()

    # --- bundles ---------------------------------------------------------------------------------------------------
    def of_tsm(self, number: int = 0, *, with_claim: bool = True, **changes: Any) -> Bundle:
        about: dict[str, Any] = {
            "merchant": SHOP, "sale": self.sales[number], "with_claim": with_claim, "former": (), "root": self.root,
            "now_s": self.now_s, "entropy": self.world.entropy, **changes,
        }  # fmt: skip
        return export_purchase(self.tsm.value, self.tsm.store, **about)

    def of_shop(self, number: int = 0, **changes: Any) -> Bundle:
        about: dict[str, Any] = {"sale": self.sales[number], "former": (), "root": self.root, "now_s": self.now_s}
        return export_sale(self.stall.shop, self.stall.party.store, **{**about, **changes})

    def verify(self, bundle: Bundle, **changes: Any) -> Verdict:
        """As somebody who was handed the bundle's bytes."""
        about: dict[str, Any] = {"root": self.root, "now_s": self.now_s, **changes}
        return verify_bundle(Bundle.from_bytes(bundle.to_bytes()), **about)

    # --- forgeries -------------------------------------------------------------------------------------------------
    def key(self, name: str) -> PrivateKey:
        """The signing key of a party, or of the stall's terminal."""
        if name == "terminal":
            (row,) = self.stall.party.store.scan(TERMINAL_KEYS)
            return PrivateKey.from_bytes(row.private_key)
        value = self.world.parties[name].value
        key: PrivateKey = value.keys.sign if hasattr(value, "keys") else value.key
        return key

    def tid_key(self, number: int = 0) -> PrivateKey:
        """SK_TID, out of a phone whose secure element is broken."""
        (row,) = self.world.parties[f"phone-{number + 1}"].store.scan(SERVICE_KEYS)
        return PrivateKey.from_bytes(row.sk_tid)

    def stranger(self, name: str, role: Role, *, from_s: int = -60, life_s: int = YEAR_S, use: Use = Use.SIGN) -> Any:
        """A party of this name and role: its new key, and its certificate (DER), good from now + `from_s`."""
        key = self.world.key()
        return key, self.certificate(key, name, role, from_s=from_s, life_s=life_s, use=use)

    def certificate(
        self, key: PrivateKey, name: str, role: Role, *, from_s: int = -60, life_s: int = YEAR_S, use: Use = Use.SIGN
    ) -> bytes:  # fmt: skip
        return pki.issue(
            self.world.root, key.public, role=role, name=name, use=use, from_s=self.now_s + from_s,
            until_s=self.now_s + from_s + life_s, entropy=self.world.entropy,
        )  # fmt: skip


def resigned(
    signed: bytes, key: PrivateKey, *, payload: bytes | None = None, request_digest: bytes = b"", **claims: Any
) -> bytes:  # fmt: skip
    """The same message by another key, of another issuer, or saying something else."""
    sign1 = cose.parse_sign1(signed, max_bytes=ANY)
    return cose.sign(
        key, name=sign1.name, claims=replace(sign1.claims, **claims),
        payload=sign1.payload if payload is None else payload, request_digest=request_digest,
    )  # fmt: skip


def put(bundle: Bundle, part: str, **fields: Any) -> Bundle:
    """The bundle with other fields in one of its parts."""
    (old,) = getattr(bundle, part)
    return replace(bundle, **{part: (replace(old, **fields),)})


def get(bundle: Bundle, part: str, name: str) -> Any:
    """A field of a part."""
    (held,) = getattr(bundle, part)
    return getattr(held, name)


def flipped(data: bytes, position: int, mask: int = 1) -> bytes:
    """With one byte altered."""
    position %= len(data)
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]
