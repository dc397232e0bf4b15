#!/usr/bin/env python3
"""Judges files that urxe wrote with URXE_PCAP: pcap.py FILE...

Every packet must be one that tshark decodes without an error, and must carry the ICRC that this
program computes by itself, from the specification (IBTA vol. 1, annex A17). Prints a line per file;
exit code 1 when a packet is bad or there is none.
"""

import struct
import subprocess
import sys
import zlib

LINKTYPE_RAW = 101
ROCE_PORT = 4791
# What a message holds is its program's matter; tshark would guess protocols that fit its first bytes.
NO_GUESSES = [word for name in ("smc", "smb_direct", "rpcordma", "nvme-rdma", "lnet", "iser",
                                "infiniband_sdp", "fcoib")
              for word in ("--disable-protocol", name)]


def packets(path):
    with open(path, "rb") as file:
        head = file.read(24)
        order = {b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\x3c\x4d": ">",  # nanoseconds
                 b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}.get(head[:4])
        if order is None:
            raise ValueError("is no pcap file")
        if struct.unpack(order + "I", head[20:24])[0] != LINKTYPE_RAW:
            raise ValueError("is not of raw IP packets")
        while True:
            record = file.read(16)
            if len(record) < 16:
                return
            captured, length = struct.unpack(order + "8xII", record)
            if captured != length:
                raise ValueError("has a packet that was cut from %d to %d bytes" % (length, captured))
            yield file.read(captured)


def icrc(packet):
    """The ICRC that the packet should carry."""
    masked = bytearray(packet[:-4])
    if masked[0] >> 4 == 4:
        header = (masked[0] & 15) * 4
        masked[1] = 0xff  # type of service
        masked[8] = 0xff  # time to live
        masked[10:12] = b"\xff\xff"  # checksum
    else:
        header = 40
        masked[0:4] = struct.pack(">I", struct.unpack(">I", masked[0:4])[0] | 0x0fffffff)
        masked[7] = 0xff  # hop limit
    masked[header + 6:header + 8] = b"\xff\xff"  # UDP checksum
    masked[header + 8 + 4] = 0xff  # FECN, BECN and reserved bits
    return zlib.crc32(b"\xff" * 8 + bytes(masked))


def judge(packet):
    """What is wrong with a packet; empty when nothing is."""
    version = packet[0] >> 4
    header = (packet[0] & 15) * 4 if version == 4 else 40
    total = (struct.unpack(">H", packet[2:4])[0] if version == 4
             else 40 + struct.unpack(">H", packet[4:6])[0])
    if total != len(packet):
        return "IP says %d bytes, there are %d" % (total, len(packet))
    destination, length = struct.unpack(">HH", packet[header + 2:header + 6])
    if destination != ROCE_PORT:
        return "UDP port %d" % destination
    if length != len(packet) - header:
        return "UDP says %d bytes, there are %d" % (length, len(packet) - header)
    carried = struct.unpack("<I", packet[-4:])[0]
    if carried != icrc(packet):
        return "ICRC 0x%08x, should be 0x%08x" % (carried, icrc(packet))
    return ""


def tshark(path, condition):
    """How many packets of the file fit a display filter."""
    result = subprocess.run(["tshark", "-n", *NO_GUESSES, "-r", path, "-Y", condition, "-T", "fields", "-e",
                             "frame.number"], capture_output=True, text=True, timeout=300)
    if result.returncode != 0:
        raise ValueError("tshark fails: " + result.stderr.strip())
    return len(result.stdout.split())


def main():
    bad = not sys.argv[1:]
    for path in sys.argv[1:]:
        try:
            count, wrong = 0, []
            for packet in packets(path):
                count += 1
                trouble = judge(packet)
                if trouble:
                    wrong.append("packet %d: %s" % (count, trouble))
            undecoded = count - tshark(path, "infiniband")
            errors = tshark(path, '_ws.malformed || _ws.expert.severity == "Error"')
        except (ValueError, OSError, subprocess.TimeoutExpired) as error:
            print("%s %s" % (path, error))
            bad = True
            continue
        print("%s: %d packets, %d wrong, %d that tshark does not decode, %d with errors by tshark%s"
              % (path, count, len(wrong), undecoded, errors, "".join("\n  " + line for line in wrong[:5])))
        bad = bad or count == 0 or bool(wrong) or undecoded or errors
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
