#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/tls_internal.h"

namespace gradwire::internal {
namespace {

constexpr std::uintmax_t kMaxPemBytes = 4 << 20;  // a bundle of all public CAs has 200 KiB

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Freer<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

absl::StatusOr<std::string> ReadPem(const std::string& path, std::string_view setting) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return InvalidArgument("--{} {}: {}", setting, path, error.message());
  if (size > kMaxPemBytes) {
    return InvalidArgument("--{} {}: {} bytes are too many for a PEM file", setting, path, size);
  }
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return InvalidArgument("--{} {}: cannot be read; check its permissions", setting, path);
  }
  return text.str();
}

Bio Memory(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

absl::StatusOr<std::string> ReadCertificates(const std::string& path, std::string_view setting) {
  GW_ASSIGN_OR_RETURN(std::string pem, ReadPem(path, setting));
  if (Certificate(PEM_read_bio_X509(Memory(pem).get(), nullptr, nullptr, nullptr)) == nullptr) {
    return InvalidArgument("--{} {}: holds no certificate in PEM form", setting, path);
  }
  return pem;
}

struct Identity {
  std::string cert;
  std::string key;
};

// Neither or both; they must belong together.
absl::StatusOr<Identity> ReadIdentity(const TlsFiles& files) {
  Identity identity;
  if (files.cert.empty() != files.key.empty()) {
    return InvalidArgument("--tls-cert and --tls-key go together; only {} is set",
                           files.cert.empty() ? "--tls-key" : "--tls-cert");
  }
  if (files.cert.empty()) return identity;
  GW_ASSIGN_OR_RETURN(identity.cert, ReadCertificates(files.cert, "tls-cert"));
  GW_ASSIGN_OR_RETURN(identity.key, ReadPem(files.key, "tls-key"));
  // No password is ever asked for on the terminal: an encrypted key is an error.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  const Key key(PEM_read_bio_PrivateKey(Memory(identity.key).get(), nullptr, no_password, nullptr));
  if (key == nullptr) {
    return InvalidArgument("--tls-key {}: holds no private key in PEM form without a password",
                           files.key);
  }
  const Certificate cert(PEM_read_bio_X509(Memory(identity.cert).get(), nullptr, nullptr, nullptr));
  if (X509_check_private_key(cert.get(), key.get()) != 1) {
    return InvalidArgument("--tls-key {} does not belong to --tls-cert {}", files.key, files.cert);
  }
  return identity;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsFiles& files) {
  GW_ASSIGN_OR_RETURN(Identity identity, ReadIdentity(files));
  if (identity.cert.empty()) {
    if (files.ca.empty()) return grpc::InsecureServerCredentials();
    return InvalidArgument(
        "--tls-ca asks for TLS, but this process is a server and has neither --tls-cert nor "
        "--tls-key");
  }
  grpc::SslServerCredentialsOptions options(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  if (!files.ca.empty()) {
    GW_ASSIGN_OR_RETURN(options.pem_root_certs, ReadCertificates(files.ca, "tls-ca"));
    options.client_certificate_request = GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  }
  options.pem_key_cert_pairs.push_back({std::move(identity.key), std::move(identity.cert)});
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientCredentials(const TlsFiles& files) {
  if (files.ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  GW_ASSIGN_OR_RETURN(options.pem_root_certs, ReadCertificates(files.ca, "tls-ca"));
  GW_ASSIGN_OR_RETURN(Identity identity, ReadIdentity(files));
  options.pem_cert_chain = std::move(identity.cert);
  options.pem_private_key = std::move(identity.key);
  return grpc::SslCredentials(options);
}

grpc::ChannelArguments ChannelArguments(int max_message_bytes) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(max_message_bytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

}  // namespace gradwire::internal
