"""A purchase's commands through nfcpy's reader side. Runs in `.interop/readers`. Usage: nfc_reader.py READER

nfcpy finds a tag of type 4A, activates it (RATS) and carries commands in ISO-DEP blocks, with chaining and recovery.
The field and the card's side of ISO-DEP are simulated here, as a phone's NFC controller has them (ISO/IEC 14443-4);
each command that arrives complete goes to the card over PC/SC. The field loses every fifth frame of the card.
Commands are lines in, hex; one line of JSON out, with the answers that nfcpy gave.
"""

import json
import sys

import nfc
import nfc.clf
import nfc.clf.device
import nfc.tag.tt4

from parties.links.pcsc import PcscLink

FSC = 64  # bytes of a frame to the card, FSCI = 5: commands of a purchase are chained
FSD = 128  # bytes of a frame to the reader: answers are chained
ATS = bytes.fromhex("0575807002")  # TL, T0 (TA, TB, TC follow; FSCI 5), TA (106 kbit/s), TB (FWI 7), TC (CID)
EDC = 2


class Picc:
    """The card's side of ISO-DEP (ISO/IEC 14443-4 §7.5)."""

    def __init__(self, transmit):
        self._transmit = transmit
        self._number = 1  # rule C: 1 on activation
        self._command = b""
        self._parts = []
        self._last = b""
        self.counts = {"chained in": 0, "chained out": 0, "again for NAK": 0, "again for ACK": 0}

    def answer(self, block):
        kind = block[0]
        if kind == 0xE0:  # RATS
            return ATS
        if kind & 0xE2 == 0x02:  # I-block, rule D: toggle
            self._number ^= 1
            self._last = self._information(block)
        elif kind & 0xF6 == 0xB2:  # R(NAK), rules 11 and 12
            if kind & 1 != self._number:
                return bytes([0xA2 | self._number])
            self.counts["again for NAK"] += 1
        elif kind & 0xF6 == 0xA2 and kind & 1 == self._number:  # R(ACK) repeated, rule 11
            self.counts["again for ACK"] += 1
        elif kind & 0xF6 == 0xA2:  # R(ACK) for the last part, rules 13 and E
            self._number ^= 1
            self._last = self._next_part()
        return self._last

    def _information(self, block):
        self._command += block[1:]
        if block[0] & 0x10:  # chaining: acknowledge
            self.counts["chained in"] += 1
            return bytes([0xA2 | self._number])
        answer, self._command = self._transmit(bytes(self._command)), b""
        room = FSD - 1 - EDC
        self._parts = [answer[at : at + room] for at in range(0, len(answer), room)]
        return self._next_part()

    def _next_part(self):
        part = self._parts.pop(0)
        self.counts["chained out"] += bool(self._parts)
        return bytes([(0x12 if self._parts else 0x02) | self._number]) + part


class Field(nfc.clf.device.Device):
    """A contactless front end with one card in its field, and a weak one."""

    def __init__(self, picc):
        self.picc = picc
        self.frames = self.lost = 0
        self._path = "simulated"

    def mute(self):
        pass

    def close(self):
        pass

    def sense_tta(self, target):
        found = nfc.clf.RemoteTarget(target.brty)
        found.sens_res, found.sel_res = bytearray.fromhex("0400"), bytearray.fromhex("20")  # ISO-DEP
        found.sdd_res = bytearray.fromhex("08010203")  # a random identifier, as phones have (ISO/IEC 14443-3 §6.5.4)
        return found

    def sense_ttb(self, target):
        return None

    def sense_ttf(self, target):
        return None

    def send_cmd_recv_rsp(self, target, data, timeout):
        answer = self.picc.answer(bytes(data))
        self.frames += 1
        if self.frames % 5 == 0:
            self.lost += 1
            raise nfc.clf.TimeoutError
        return bytearray(answer)

    def get_max_send_data_size(self, target):
        return 256

    def get_max_recv_data_size(self, target):
        return FSD


def main():
    with PcscLink(sys.argv[1]) as link:
        picc = Picc(link.transmit)
        field = Field(picc)
        front_end = nfc.clf.ContactlessFrontend()
        front_end.device = field
        tag = front_end.connect(rdwr={"targets": ["106A"], "on-connect": lambda _tag: False})
        answers = []
        for line in sys.stdin:
            command = bytes.fromhex(line)
            size = command[4]  # case 4, or case 2: then it is Le
            data, le = (command[5 : 5 + size], 256) if len(command) > 5 else (None, size or 256)
            answers.append([command.hex(), bytes(tag.send_apdu(*command[:4], data, le, check_status=False)).hex()])
        ndef = tag.ndef
        print(json.dumps({"tag": str(tag), "kind": type(tag).__name__, "ndef": ndef is not None, "frames": field.frames,
                          "lost": field.lost, "trace": answers, **picc.counts}))  # fmt: skip


main()
