"""Parties in the state that a test starts from."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from conformance.bundle import Bundle
from conformance.emv import CardKey
from conformance.emv_card import PlayedCard
from conformance.phone import Phone
from conformance.played import PlayedBank
from conformance.service import Offer, Wallet
from cryptography import x509
from cryptography.x509.oid import NameOID

ACCOUNTS = 12
"""How many accounts the suite asks one person's bank for; then it goes on with another person."""


class Phones:
    """Hands out phones with their persons. Each is given once; the last person has little credit."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._pairs = list(zip(bundle.phones, bundle.persons, strict=False))
        self._given: list[Phone] = []
        self._payer: Phone | None = None

    def _take(self, place: int) -> Phone:
        if not self._pairs:
            pytest.fail("the bundle has too few phones and persons")
        phone = Phone(self._bundle, *self._pairs.pop(place))
        self._given.append(phone)
        return phone

    def new(self) -> Phone:
        """A phone that no bank knows."""
        return self._take(0)

    def of_little_credit(self) -> Phone:
        """One whose person's limit is soon used up."""
        return self._take(-1)

    def enrolled(self, phone: Phone | None = None) -> Phone:
        """A phone after INIT."""
        phone = phone or self.new()
        phone.user = user_in(phone.enroll().send()["certificate"])
        return phone

    def installed(self, phone: Phone | None = None) -> Phone:
        """A phone after ATT-D7."""
        phone = self.enrolled(phone)
        phone.install()
        return phone

    def payer(self) -> Phone:
        """A phone after ATT-D7 whose person can open further accounts."""
        if self._payer is None or self._payer.sessions >= ACCOUNTS:
            self._payer = self.installed()
        return self._payer

    def close(self) -> None:
        for phone in self._given:
            phone.connection.close()


def user_in(certificate: bytes) -> str:
    """The name that CERT_U^B gives the user."""
    (name,) = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


class Registered:
    """A service account at the TSM, with the played bank's account that pays."""

    def __init__(self, wallet: Wallet, bank: PlayedBank, maximum_minor: int = 0, limit_minor: int = 500_000) -> None:
        self.wallet = wallet
        self.account = replace(bank.account(), limit_minor=limit_minor)
        self.offer: Offer = wallet.offer()
        self.reply = wallet.prove(self.account, self.offer, maximum_minor=maximum_minor).send()

    def session(self) -> tuple[bytes, bytes]:
        """CARD-1 and CARD-2: N_U and N_T."""
        n_u = os.urandom(32)
        return n_u, self.wallet.request_cards(self.offer, n_u).send()["n_t"]

    def cards(self, number: int = 1, *, active: bool = True) -> list[PlayedCard]:
        """CARD-1 to CARD-5, or to CARD-4: cards of this account."""
        with ThreadPoolExecutor() as pool:
            keys = list(pool.map(lambda _: CardKey.new(), range(number)))
        n_u, n_t = self.session()
        issued = self.wallet.card_keys(self.account, self.offer, n_u, n_t, keys).send()["cards"]
        if active:
            self.wallet.activate_cards(self.offer, n_t, [card["pan"] for card in issued]).send()
        return [PlayedCard(key, card) for key, card in zip(keys, issued, strict=True)]
