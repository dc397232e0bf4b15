#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "transport/urxe/wire/packet.h"

namespace urxe {
namespace {

std::vector<std::byte> Bytes(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(Packet, WritesAWriteWithImmediateAsTheSpecificationDrawsIt) {
  Header header;
  header.operation = Operation::kWriteOnlyImm;
  header.solicited = true;
  header.ack_request = true;
  header.pad = 2;
  header.hints = kHintIcrcDispensable;
  header.pkey = 0x7FFF;
  header.dest_qpn = 0x010203;
  header.psn = 0xFFFFFE;
  header.address = 0x1122334455667788;
  header.rkey = 0xA1B2C3D4;
  header.dma_length = 0x00010002;
  header.immediate = {9, 8, 7, 6};
  std::byte out[kMaxHeaders];
  ASSERT_EQ(WriteHeaders(header, out), 12u + 16u + 4u);
  const auto expected =
      Bytes({0x0B, 0xA0, 0x7F, 0xFF, 0x01, 0x01, 0x02, 0x03, 0x80, 0xFF, 0xFF, 0xFE,  // BTH
             0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0xA1, 0xB2, 0xC3, 0xD4,  // RETH
             0x00, 0x01, 0x00, 0x02, 9,    8,    7,    6});
  EXPECT_EQ(std::vector<std::byte>(out, out + expected.size()), expected);
}

TEST(Packet, WritesADatagramWithItsKeyAndSource) {
  Header header;
  header.service = Service::kUd;
  header.operation = Operation::kSendOnlyImm;
  header.qkey = 0x11111111;
  header.src_qpn = 0x0000AB;
  header.immediate = {1, 2, 3, 4};
  std::byte out[kMaxHeaders];
  ASSERT_EQ(WriteHeaders(header, out), 12u + 8u + 4u);
  const auto expected = Bytes({0x11, 0x11, 0x11, 0x11, 0, 0, 0, 0xAB, 1, 2, 3, 4});
  EXPECT_EQ(std::vector<std::byte>(out + 12, out + 24), expected);
  EXPECT_EQ(static_cast<int>(out[0]), 0x65);
}

// Whatever is written is read back, for every operation of every service, with and without payload.
TEST(Packet, ReadsBackEveryOperation) {
  int operations = 0;
  for (const Service service : {Service::kRc, Service::kUc, Service::kRd, Service::kUd}) {
    for (int code = 0; code < 32; ++code) {
      const auto operation = static_cast<Operation>(code);
      const Layout layout = LayoutOf(service, operation);
      if (!layout.valid) continue;
      ++operations;
      for (const size_t size : {0u, 1u, 6u, 64u}) {
        if (size > 0 && !layout.payload) continue;
        Header header;
        header.service = service;
        header.operation = operation;
        header.solicited = size == 1;
        header.ack_request = size == 6;
        header.pad = static_cast<uint8_t>(-size & 3);
        header.hints = 0x2A;
        header.dest_qpn = 0xABCDEF;
        header.psn = 0x123456;
        header.address = 0x0102030405060708;
        header.rkey = 0x090A0B0C;
        header.dma_length = 0x0D0E0F10;
        header.swap_or_add = 0x1112131415161718;
        header.compare = 0x191A1B1C1D1E1F20;
        header.syndrome = kNakSequence;
        header.msn = 0x212223;
        header.original = 0x2425262728292A2B;
        header.qkey = 0x2C2D2E2F;
        header.src_qpn = 0x303132;
        header.immediate = {0x33, 0x34, 0x35, 0x36};
        std::byte headers[kMaxHeaders];
        const size_t headers_size = WriteHeaders(header, headers);
        std::vector<std::byte> datagram(headers, headers + headers_size);
        datagram.resize(headers_size + size, std::byte{0x77});
        datagram.resize(datagram.size() + header.pad + kIcrcSize);

        Header read;
        std::span<const std::byte> payload;
        ASSERT_TRUE(ParsePacket(datagram, read, payload)) << code;
        EXPECT_EQ(read.service, service);
        EXPECT_EQ(read.operation, operation);
        EXPECT_EQ(read.solicited, header.solicited);
        EXPECT_EQ(read.ack_request, header.ack_request);
        EXPECT_EQ(read.pad, header.pad);
        EXPECT_EQ(read.hints, header.hints);
        EXPECT_EQ(read.pkey, 0xFFFF);
        EXPECT_EQ(read.dest_qpn, header.dest_qpn);
        EXPECT_EQ(read.psn, header.psn);
        EXPECT_EQ(read.address, layout.reth || layout.atomic ? header.address : 0);
        EXPECT_EQ(read.rkey, layout.reth || layout.atomic ? header.rkey : 0);
        EXPECT_EQ(read.dma_length, layout.reth ? header.dma_length : 0);
        EXPECT_EQ(read.swap_or_add, layout.atomic ? header.swap_or_add : 0);
        EXPECT_EQ(read.compare, layout.atomic ? header.compare : 0);
        EXPECT_EQ(read.syndrome, layout.aeth ? header.syndrome : 0);
        EXPECT_EQ(read.msn, layout.aeth ? header.msn : 0);
        EXPECT_EQ(read.original, layout.atomic_ack ? header.original : 0);
        EXPECT_EQ(read.qkey, service == Service::kUd ? header.qkey : 0);
        EXPECT_EQ(read.src_qpn, service == Service::kUd ? header.src_qpn : 0);
        if (layout.immediate) {
          EXPECT_EQ(read.immediate, header.immediate);
        }
        ASSERT_EQ(payload.size(), size);
        EXPECT_EQ(payload.data(), datagram.data() + headers_size);

        // One byte less, and a header, the padding or the ICRC is cut.
        if (size == 0) {
          std::span<const std::byte> cut(datagram);
          for (size_t left = 0; left < datagram.size(); ++left) {
            EXPECT_FALSE(ParsePacket(cut.first(left), read, payload)) << code << " " << left;
          }
        }
      }
    }
  }
  EXPECT_EQ(operations, 21 + 12 + 0 + 2);
}

TEST(Packet, RefusesOtherVersionsAndUnknownOperations) {
  std::vector<std::byte> datagram(64);
  Header header;
  std::span<const std::byte> payload;
  datagram[0] = std::byte{0x04};
  EXPECT_TRUE(ParsePacket(datagram, header, payload));
  datagram[1] = std::byte{0x01};
  EXPECT_FALSE(ParsePacket(datagram, header, payload));
  datagram[1] = std::byte{0};
  for (const int opcode : {0x15, 0x1F, 0x2C, 0x40, 0x60, 0x66, 0x81, 0xFF}) {
    datagram[0] = static_cast<std::byte>(opcode);
    EXPECT_FALSE(ParsePacket(datagram, header, payload)) << opcode;
  }
}

TEST(Packet, MeasuresSequenceNumbersAroundTheRing) {
  EXPECT_EQ(PsnDistance(5, 3), 2);
  EXPECT_EQ(PsnDistance(3, 5), -2);
  EXPECT_EQ(PsnDistance(1, 0xFFFFFF), 2);
  EXPECT_EQ(PsnDistance(0xFFFFFF, 1), -2);
  EXPECT_EQ(PsnDistance(0x800000, 0), -0x800000);
}

}  // namespace
}  // namespace urxe
