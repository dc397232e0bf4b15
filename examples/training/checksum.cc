#include "examples/training/checksum.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <cstring>
#include <memory>

namespace gradwire::training {
namespace {

class Hasher {
 public:
  Hasher() { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void Update(const void* data, size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
  Sha256 Final() {
    Sha256 checksum{};
    EVP_DigestFinal_ex(context_.get(), checksum.data(), nullptr);
    return checksum;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

}  // namespace

Sha256 ParametersChecksum(const Model<float>& model) {
  Hasher hasher;
  for (const Parameter<float>* parameter : model.parameters()) {
    hasher.Update(parameter->value, static_cast<size_t>(parameter->size) * sizeof(float));
  }
  return hasher.Final();
}

Sha256 ChecksumOf(std::string_view text) {
  Hasher hasher;
  hasher.Update(text.data(), text.size());
  return hasher.Final();
}

std::string Hex(const Sha256& checksum) {
  std::string text;
  for (const uint8_t byte : checksum) text += fmt::format("{:02x}", byte);
  return text;
}

int64_t Short(const Sha256& checksum) {
  int64_t bits = 0;
  std::memcpy(&bits, checksum.data(), sizeof(bits));
  return bits;
}

}  // namespace gradwire::training
