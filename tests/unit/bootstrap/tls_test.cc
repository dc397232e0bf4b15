// The control plane under TLS, with certificates made for the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "tests/unit/bootstrap/ranks.h"

namespace gradwire {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using ::testing::AllOf;
using testing::FreePort;
using ::testing::HasSubstr;
using testing::PlaceOf;
using testing::StandingServer;
using testing::TestSettings;

constexpr long kDay = 24 * 3600;

// A key with its certificate, in memory and as PEM files.
struct Identity {
  std::shared_ptr<EVP_PKEY> key;
  std::shared_ptr<X509> cert;
  std::string key_path;
  std::string cert_path;
};

void AddExtension(X509* cert, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, cert, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, decltype(&X509_EXTENSION_free)> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()), X509_EXTENSION_free);
  ASSERT_NE(extension, nullptr);
  X509_add_ext(cert, extension.get(), -1);
}

class Tls : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string pattern = (std::filesystem::temp_directory_path() / "gradwire-tls-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = new std::filesystem::path(pattern);
    ca_ = new Identity(Make("ca", nullptr, "", kDay));
    other_ca_ = new Identity(Make("other-ca", nullptr, "", kDay));
    server_ = new Identity(Make("server", ca_, "IP:127.0.0.1,DNS:localhost", kDay));
    client_ = new Identity(Make("client", ca_, "DNS:client", kDay));
  }
  static void TearDownTestSuite() {
    std::filesystem::remove_all(*folder_);
    for (Identity* identity : {ca_, other_ca_, server_, client_}) delete identity;
    delete folder_;
  }

  // Signed by `issuer`, or by itself as a CA; valid from two days ago for two days and `seconds`.
  static Identity Make(const std::string& name, const Identity* issuer,
                       const std::string& alt_names, long valid) {
    Identity made;
    made.key = {EVP_RSA_gen(2048), EVP_PKEY_free};
    made.cert = {X509_new(), X509_free};
    X509* cert = made.cert.get();
    X509_set_version(cert, 2);
    static long serial = 1;
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(cert), -2 * kDay);
    X509_gmtime_adj(X509_getm_notAfter(cert), valid);
    X509_set_pubkey(cert, made.key.get());
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509* signer = issuer == nullptr ? cert : issuer->cert.get();
    X509_set_issuer_name(cert, X509_get_subject_name(signer));
    AddExtension(cert, signer, NID_basic_constraints,
                 issuer == nullptr ? "critical,CA:TRUE" : "CA:FALSE");
    if (!alt_names.empty()) AddExtension(cert, signer, NID_subject_alt_name, alt_names);
    EXPECT_GT(X509_sign(cert, issuer == nullptr ? made.key.get() : issuer->key.get(), EVP_sha256()),
              0);
    made.key_path = (*folder_ / (name + ".key")).string();
    made.cert_path = (*folder_ / (name + ".pem")).string();
    FILE* file = fopen(made.key_path.c_str(), "w");
    PEM_write_PrivateKey(file, made.key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    fclose(file);
    file = fopen(made.cert_path.c_str(), "w");
    PEM_write_X509(file, cert);
    fclose(file);
    return made;
  }

  static RendezvousServer::Options ServerOptions(const Identity& identity, const Identity* ca) {
    RendezvousServer::Options options;
    options.tls_cert = identity.cert_path;
    options.tls_key = identity.key_path;
    if (ca != nullptr) options.tls_ca = ca->cert_path;
    return options;
  }

  static Settings ClientSettings(const Identity& ca, const Identity* identity) {
    Settings settings = TestSettings();
    settings.tls_ca = ca.cert_path;
    if (identity != nullptr) {
      settings.tls_cert = identity->cert_path;
      settings.tls_key = identity->key_path;
    }
    return settings;
  }

  static absl::Status JoinAlone(const RendezvousServer& server, const Settings& settings,
                                const std::string& host = "127.0.0.1") {
    LaunchPlace place = PlaceOf(0, 1, server.port(), /*hosted=*/false);
    place.rendezvous_host = host;
    return JoinWorld(place, settings).status();
  }

  // Certain trouble is told at once rather than at the joining deadline.
  static std::string RefusedAtOnce(const RendezvousServer& server, const Settings& settings,
                                   const std::string& host = "127.0.0.1") {
    const auto start = steady_clock::now();
    const absl::Status status = JoinAlone(server, settings, host);
    EXPECT_FALSE(status.ok());
    EXPECT_LT(steady_clock::now() - start, seconds(5));
    return Message(status);
  }

  static std::string Write(const std::string& name, const std::string& text) {
    const std::string path = (*folder_ / name).string();
    std::ofstream(path) << text;
    return path;
  }

  static std::filesystem::path* folder_;
  static Identity* ca_;
  static Identity* other_ca_;
  static Identity* server_;
  static Identity* client_;
};
std::filesystem::path* Tls::folder_;
Identity* Tls::ca_;
Identity* Tls::other_ca_;
Identity* Tls::server_;
Identity* Tls::client_;

TEST_F(Tls, ServerTls) {
  const auto server = StandingServer(ServerOptions(*server_, nullptr));
  const absl::Status by_address = JoinAlone(*server, ClientSettings(*ca_, nullptr));
  EXPECT_TRUE(by_address.ok()) << Message(by_address);
  const absl::Status by_name = JoinAlone(*server, ClientSettings(*ca_, nullptr), "localhost");
  EXPECT_TRUE(by_name.ok()) << Message(by_name);
}

TEST_F(Tls, MutualTls) {
  const auto server = StandingServer(ServerOptions(*server_, ca_));
  const absl::Status status = JoinAlone(*server, ClientSettings(*ca_, client_));
  EXPECT_TRUE(status.ok()) << Message(status);
}

TEST_F(Tls, HostedByRankZeroWithOneSetOfFiles) {
  const auto worlds =
      testing::JoinAll(3, FreePort(), /*hosted=*/true, ClientSettings(*ca_, server_));
  ASSERT_EQ(worlds.size(), 3u);
  testing::OnEachRank(worlds,
                      [](World& world) { EXPECT_TRUE(world.Barrier("b", seconds(5)).ok()); });
  testing::LeaveAll(worlds);
}

TEST_F(Tls, WrongCa) {
  const auto server = StandingServer(ServerOptions(*server_, nullptr));
  EXPECT_THAT(RefusedAtOnce(*server, ClientSettings(*other_ca_, nullptr)),
              AllOf(HasSubstr("certificate was not accepted"), HasSubstr("--tls-ca"),
                    HasSubstr(std::to_string(server->port()))));
}

TEST_F(Tls, ExpiredServerCertificate) {
  const Identity expired = Make("expired", ca_, "IP:127.0.0.1", -kDay);
  const auto server = StandingServer(ServerOptions(expired, nullptr));
  EXPECT_THAT(RefusedAtOnce(*server, ClientSettings(*ca_, nullptr)), HasSubstr("has expired"));
}

TEST_F(Tls, CertificateForAnotherName) {
  const Identity elsewhere = Make("elsewhere", ca_, "DNS:elsewhere", kDay);
  const auto server = StandingServer(ServerOptions(elsewhere, nullptr));
  EXPECT_THAT(RefusedAtOnce(*server, ClientSettings(*ca_, nullptr)),
              AllOf(HasSubstr("'127.0.0.1'"), HasSubstr("subject alternative name")));
  EXPECT_THAT(RefusedAtOnce(*server, ClientSettings(*ca_, nullptr), "localhost"),
              HasSubstr("'localhost'"));
}

TEST_F(Tls, MissingClientCertificate) {
  const auto server = StandingServer(ServerOptions(*server_, ca_));
  EXPECT_THAT(RefusedAtOnce(*server, ClientSettings(*ca_, nullptr)),
              AllOf(HasSubstr("certificate"), HasSubstr("--tls-cert")));
}

TEST_F(Tls, ClientCertificateOfAnotherCaOrExpired) {
  const auto server = StandingServer(ServerOptions(*server_, ca_));
  const Identity foreign = Make("foreign", other_ca_, "DNS:client", kDay);
  EXPECT_THAT(RefusedAtOnce(*server, ClientSettings(*ca_, &foreign)), HasSubstr("--tls-cert"));
  const Identity expired = Make("expired-client", ca_, "DNS:client", -kDay);
  EXPECT_THAT(RefusedAtOnce(*server, ClientSettings(*ca_, &expired)),
              AllOf(HasSubstr("--tls-cert"), HasSubstr("dates")));
}

TEST_F(Tls, OneSideWithoutTls) {
  const auto plain = StandingServer();
  EXPECT_THAT(RefusedAtOnce(*plain, ClientSettings(*ca_, nullptr)),
              HasSubstr("does not speak TLS"));
  for (const Identity* ca : {static_cast<Identity*>(nullptr), ca_}) {
    const auto secure = StandingServer(ServerOptions(*server_, ca));
    EXPECT_THAT(RefusedAtOnce(*secure, TestSettings()), HasSubstr("wants TLS; give --tls-ca"));
  }
}

TEST_F(Tls, RunningJobIsNotHarmedByRefusedHandshakes) {
  const auto server = StandingServer(ServerOptions(*server_, ca_));
  const auto worlds =
      testing::JoinAll(2, server->port(), /*hosted=*/false, ClientSettings(*ca_, client_));
  ASSERT_EQ(worlds.size(), 2u);
  RefusedAtOnce(*server, ClientSettings(*ca_, nullptr));
  RefusedAtOnce(*server, ClientSettings(*other_ca_, nullptr));
  testing::OnEachRank(worlds,
                      [](World& world) { EXPECT_TRUE(world.Barrier("b", seconds(5)).ok()); });
  testing::LeaveAll(worlds);
}

TEST_F(Tls, BadFilesAreNamed) {
  const auto server = StandingServer(ServerOptions(*server_, nullptr));
  const auto trouble = [&](const std::string& ca, const std::string& cert, const std::string& key) {
    Settings settings = TestSettings();
    settings.tls_ca = ca;
    settings.tls_cert = cert;
    settings.tls_key = key;
    const absl::Status status = JoinAlone(*server, settings);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return Message(status);
  };
  EXPECT_THAT(trouble("/no/such/ca.pem", "", ""),
              AllOf(HasSubstr("--tls-ca /no/such/ca.pem"), HasSubstr("No such file")));
  const std::string junk = Write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
  EXPECT_THAT(trouble(junk, "", ""), HasSubstr("--tls-ca " + junk));
  EXPECT_THAT(trouble(folder_->string(), "", ""), HasSubstr("--tls-ca " + folder_->string()));
  const std::string& ca = ca_->cert_path;
  EXPECT_THAT(trouble(ca, junk, client_->key_path), HasSubstr("--tls-cert " + junk));
  EXPECT_THAT(trouble(ca, client_->cert_path, junk), HasSubstr("--tls-key " + junk));
  EXPECT_THAT(trouble(ca, client_->cert_path, server_->key_path), HasSubstr("does not belong"));
  EXPECT_THAT(trouble(ca, client_->cert_path, ""), HasSubstr("only --tls-cert is set"));

  RendezvousServer::Options options = ServerOptions(*server_, nullptr);
  options.tls_key = "/no/such.key";
  EXPECT_THAT(Message(RendezvousServer::Start(options).status()), HasSubstr("/no/such.key"));
  options = {};
  options.tls_ca = ca;
  EXPECT_THAT(Message(RendezvousServer::Start(options).status()), HasSubstr("--tls-cert"));
}

}  // namespace
}  // namespace gradwire
