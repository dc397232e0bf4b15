// CRC-32 as Ethernet and zlib have it, which the ICRC is made of: the larger part of what a packet
// costs beside its copies.
#pragma once

#include <cstddef>
#include <cstdint>

namespace urxe {

// The CRC of what `crc` (0 at the beginning) stands for and then `length` bytes.
uint32_t Crc32(uint32_t crc, const void* bytes, size_t length);

}  // namespace urxe
