"""The number of nft's ruleset, which the kernel increases with each change (nfnetlink: NFT_MSG_GETGEN)."""

import socket
import struct

NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NLM_F_REQUEST = 12, 10, 16, 1
NFTA_GEN_ID = 1
NETLINK_TIMEOUT = 1.0  # seconds


def read_generation() -> int | None:
    """None where the kernel does not say. It costs no process: listing the ruleset starts one."""
    header = struct.pack("=IHHII", 20, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.settimeout(NETLINK_TIMEOUT)
            netlink.sendto(header + struct.pack("!BBH", 0, 0, 0), (0, 0))
            return parse_generation(netlink.recv(4096))
    except OSError:
        return None


def parse_generation(reply: bytes) -> int | None:
    """The attribute NFTA_GEN_ID of a reply: a header of 16 bytes, one of 4, then attributes of length and type."""
    at = 20
    while at + 8 <= len(reply):
        length, kind = struct.unpack_from("=HH", reply, at)
        if kind & 0x3FFF == NFTA_GEN_ID:
            return int(struct.unpack_from("!I", reply, at + 4)[0])
        at += max(4, length + 3 & ~3)
    return None
