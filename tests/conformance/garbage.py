#!/usr/bin/env python3
"""Sends datagrams that no RoCE peer sends to UDP port 4791 of an address, until it is ended.

Among them: nothing but noise; packets of every opcode with made-up queue pair numbers, lengths and
keys, whose ICRC is wrong; the same cut short.
"""

import random
import socket
import struct
import sys

ROCE_PORT = 4791


def packet(source):
    """A base transport header with anything in it, and something behind."""
    opcode = source.randrange(256)
    queue_pair = source.choice((source.randrange(1 << 24), source.randrange(1, 4) << 16 | 1,
                                source.randrange(1, 4) << 16 | source.randrange(64)))
    header = struct.pack(">BBHII", opcode, source.randrange(256), source.choice((0xffff, 0x1234)),
                         queue_pair, source.randrange(1 << 32))
    return header + source.randbytes(source.choice((0, 4, 16, 20, 28, 60, 1028, 4100)))


def main():
    address = sys.argv[1]
    source = random.Random(11)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        while True:
            kind = source.randrange(4)
            if kind == 0:
                data = source.randbytes(source.randrange(0, 2000))
            elif kind == 1:
                data = packet(source)[:source.randrange(0, 40)]
            else:
                data = packet(source)
            try:
                sender.sendto(data, (address, ROCE_PORT))
            except OSError:
                pass  # nobody has the port yet, or no longer


if __name__ == "__main__":
    main()
