// One number for all parameters of a model.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "examples/training/model.h"

namespace gradwire::training {

using Sha256 = std::array<uint8_t, 32>;

// SHA-256 of the parameters as little-endian float32, in the order of Model::parameters(): that of
// the tensors of a checkpoint, so other programs can recompute it.
Sha256 ParametersChecksum(const Model<float>& model);
Sha256 ChecksumOf(std::string_view text);

// 64 hexadecimal digits.
std::string Hex(const Sha256& checksum);
// Its first 64 bits.
int64_t Short(const Sha256& checksum);

}  // namespace gradwire::training
