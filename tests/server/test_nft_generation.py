import struct

from mailkeep_server.common.nft_generation import parse_generation


def test_the_generation_is_read_from_among_other_attributes() -> None:
    header = struct.pack("=IHHII", 0, 0xA0F, 0, 1, 0) + b"\0\0\0\0"
    name = struct.pack("=HH", 4 + 5, 3) + b"nft\0\0" + b"\0\0\0"  # padded to a multiple of 4
    number = struct.pack("=HH", 8, 1) + struct.pack("!I", 1291)
    assert parse_generation(header + name + number) == 1291
    assert parse_generation(header + name) is None
    assert parse_generation(b"") is None
