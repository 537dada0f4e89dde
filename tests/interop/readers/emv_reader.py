"""A purchase as python-emv makes it. Runs in `.interop/emv`. Usage: emv_reader.py READER {"9F02": "hex", ...}

What the terminal knows is given; how it is laid out, all parsing and all commands are python-emv's. Prints JSON.
"""

import json
import sys

from emv.card import Card
from emv.protocol.command import GenerateApplicationCryptogramCommand, GetProcessingOptions
from emv.protocol.data import Tag
from emv.protocol.structures import TLV
from smartcard.System import readers


class Recorder:
    """What came over the connection, as python-emv's transport saw it."""

    def __init__(self, transport):
        self.trace = []
        self._transmit, transport.transmit = transport.transmit, self.transmit

    def transmit(self, command):
        data, sw1, sw2 = self._transmit(command)
        self.trace.append([bytes(command).hex(), bytes([*data, sw1, sw2]).hex()])
        return data, sw1, sw2


def lay_out(dol, values):
    # python-emv pads on the left only, so texts are filled up here.
    return dol.serialise({tag: list(values.get(tag, b"").ljust(length, b"\0")) for tag, length in dol})


def flatten(tlv, found):
    # What python-emv parsed further is shown as it shows it, the rest as bytes: its own text of a PAN fails at the
    # filler that 19 digits need.
    for tag, value in tlv.items():
        if isinstance(value, TLV):
            flatten(value, found)
        else:
            name = bytes([tag.id] if isinstance(tag.id, int) else tag.id).hex().upper()
            found[name] = bytes(value).hex() if type(value) is list else repr(value)
    return found


def main():
    name, given = sys.argv[1], json.loads(sys.argv[2])
    values = {Tag(tuple(bytes.fromhex(tag))): bytes.fromhex(value) for tag, value in given.items()}
    card = Card(next(reader for reader in readers() if str(reader) == name).createConnection())
    recorder = Recorder(card.tp)
    app = card.list_applications()[0]
    found = {}
    information = card.select_application(app[Tag.ADF_NAME])
    flatten(information.data, found)
    pdol = lay_out(information.data[Tag.FCI][Tag.FCI_PROP][Tag.PDOL], values)
    options = card.tp.exchange(GetProcessingOptions([0x83, len(pdol), *pdol])).data[Tag.RMTF2]
    data = card.get_application_data(options[0x94])
    flatten(data, found)
    metadata = card.get_metadata()
    cdol = lay_out(data[Tag.CDOL1], values)
    answer = card.tp.exchange(
        GenerateApplicationCryptogramCommand(GenerateApplicationCryptogramCommand.ARQC, cdol, cda_sig=True)
    )
    flatten(answer.data, found)
    print(json.dumps({"trace": recorder.trace, "found": found, "metadata": metadata}))


main()
