#include "parameter_server/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>

#include "tests/unit/training/temporary_folder.h"

namespace gradwire::ps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using training::TemporaryFolder;

std::string File(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes.append(header).append(data);
}

class SafetensorsTest : public ::testing::Test {
 protected:
  std::string Error(std::string_view header, std::string_view data) {
    return ErrorOfBytes(File(header, data));
  }
  std::string ErrorOfBytes(std::string_view bytes) {
    const auto file = SafetensorsFile::Read(folder_.Write("f", bytes));
    return file.ok() ? "no error" : Message(file.status());
  }
  TemporaryFolder folder_;
};

// The bytes as the format's description gives them.
TEST_F(SafetensorsTest, WritesTheFormat) {
  const std::vector<float> a = {1, 2};
  const std::vector<float> b = {3};
  const auto path = folder_.path() / "f";
  ASSERT_TRUE(WriteSafetensors(path, {{"b", {2, 1}, a}, {"a", {}, b}}, {{"k", "v\n\"w"}}).ok());
  const std::string bytes = folder_.Read("f");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  ASSERT_EQ(bytes.size(), 8 + length + 12);
  std::string header = bytes.substr(8, length);
  header.resize(header.find_last_not_of(' ') + 1);
  EXPECT_EQ(header,
            R"({"__metadata__":{"k":"v\n\"w"},"b":{"dtype":"F32","shape":[2,1],)"
            R"("data_offsets":[0,8]},"a":{"dtype":"F32","shape":[],"data_offsets":[8,12]}})");
  float values[3];
  std::memcpy(values, bytes.data() + 8 + length, 12);
  EXPECT_THAT(values, ElementsAre(1, 2, 3));
  EXPECT_THAT(folder_.Names(), ElementsAre("f")) << "a temporary file is left";
}

TEST_F(SafetensorsTest, RoundTrip) {
  const std::vector<float> values = {1.5f, -0.0f, 3e-40f, 7, 8, 9};
  const auto path = folder_.path() / "f";
  ASSERT_TRUE(
      WriteSafetensors(path, {{"w", {2, 3}, values}, {"none", {0}, {}}}, {{"x", "y"}}).ok());
  const auto file = SafetensorsFile::Read(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("x"), "y");
  EXPECT_THAT(file->names(), ElementsAre("none", "w"));
  std::vector<float> read(6);
  ASSERT_TRUE(file->Load("w", {2, 3}, read).ok());
  EXPECT_EQ(std::memcmp(read.data(), values.data(), 24), 0);
  EXPECT_THAT(Message(file->Load("w", {3, 2}, read)), HasSubstr("F32 [2, 3], wanted F32 [3, 2]"));
  EXPECT_TRUE(absl::IsNotFound(file->Load("v", {2, 3}, read)));
}

TEST_F(SafetensorsTest, ReadsOtherTypesAndAnyOrder) {
  const std::string header = R"( {"h":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},)"
                             R"("i":{"dtype":"I32","shape":[1,1],"data_offsets":[0,4]}})";
  EXPECT_THAT(Error(header, "123456"), HasSubstr("not a JSON object")) << "must begin with {";
  EXPECT_EQ(Error(header.substr(1) + "   ", "123456"), "no error");
}

TEST_F(SafetensorsTest, ChecksLengths) {
  EXPECT_THAT(ErrorOfBytes("short"), HasSubstr("5 bytes are too few"));
  EXPECT_THAT(ErrorOfBytes(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)),
              HasSubstr("header of 18446744073709551615 bytes"));
  EXPECT_THAT(ErrorOfBytes(File("{}", "").substr(0, 9)), HasSubstr("header of 2 bytes"));
  EXPECT_EQ(Error("{}", ""), "no error");
  EXPECT_THAT(Error("{}", "x"), HasSubstr("1 bytes of data, the tensors fill 0"));
}

TEST_F(SafetensorsTest, ChecksTheHeader) {
  EXPECT_THAT(Error("", ""), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error("[]", ""), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error(R"({"a":)", ""), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error(R"({"a":1})", ""), HasSubstr("'a' is not an object"));
  EXPECT_THAT(Error(R"({"__metadata__":{"a":1}})", ""), HasSubstr("metadata 'a'"));
  const std::string tensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_EQ(Error("{\"a\":" + tensor + "}", "x"), "no error");
  EXPECT_THAT(Error("{\"a\":" + tensor + ",\"a\":" + tensor + "}", "x"), HasSubstr("twice"));
  for (const char* bad :
       {R"({"shape":[1],"data_offsets":[0,1]})", R"({"dtype":"U8","data_offsets":[0,1]})",
        R"({"dtype":"U8","shape":[1]})", R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})",
        R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})",
        R"({"dtype":"U8","shape":[1],"data_offsets":[0]})",
        R"({"dtype":"U8","shape":[1],"data_offsets":[0,99999999999999999999]})"}) {
    EXPECT_THAT(Error(std::string("{\"a\":") + bad + "}", "x"), HasSubstr("lacks a proper")) << bad;
  }
}

TEST_F(SafetensorsTest, ChecksTheLayout) {
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets) {
    return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
  };
  const auto file = [](const std::string& tensor) { return "{\"a\":" + tensor + "}"; };
  EXPECT_THAT(Error(file(one("F31", "[1]", "[0,4]")), "1234"), HasSubstr("unknown type F31"));
  EXPECT_THAT(Error(file(one("F32", "[2]", "[0,8]")), "1234"), HasSubstr("leaves the 4 bytes"));
  EXPECT_THAT(Error(file(one("F32", "[1]", "[4,0]")), "1234"), HasSubstr("leaves the 4 bytes"));
  EXPECT_THAT(Error(file(one("F32", "[2]", "[0,4]")), "1234"), HasSubstr("needs 8"));
  EXPECT_THAT(Error(file(one("F32", "[4294967296,4294967296]", "[0,4]")), "1234"),
              HasSubstr("overflows"));
  const auto two = [&](std::string_view a, std::string_view b) {
    return "{\"a\":" + one("U8", "[2]", a) + ",\"b\":" + one("U8", "[2]", b) + "}";
  };
  EXPECT_EQ(Error(two("[2,4]", "[0,2]"), "1234"), "no error");
  EXPECT_THAT(Error(two("[0,2]", "[1,3]"), "123"), HasSubstr("'b' overlaps"));
  EXPECT_THAT(Error(two("[0,2]", "[3,5]"), "12345"), HasSubstr("'b' leaves a gap"));
  EXPECT_THAT(Error(two("[0,2]", "[2,4]"), "12345"), HasSubstr("5 bytes of data"));
}

TEST_F(SafetensorsTest, MissingFolderIsToldAtOnce) {
  const absl::Status status = WriteSafetensors(folder_.path() / "absent" / "f", {}, {});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("absent/f: cannot write here"));
}

}  // namespace
}  // namespace gradwire::ps
