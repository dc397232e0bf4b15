#include "transport/file_io.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "tests/unit/training/temporary_folder.h"

namespace gradwire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using training::TemporaryFolder;

TEST(InputFileTest, ReadsParts) {
  const TemporaryFolder folder;
  const auto file = InputFile::Open(folder.Write("f", "0123456789"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->size(), 10u);
  std::string part(4, ' ');
  ASSERT_TRUE(file->Read(3, std::as_writable_bytes(std::span(part))).ok());
  EXPECT_EQ(part, "3456");
  EXPECT_TRUE(file->Read(10, {}).ok());
  const absl::Status status = file->Read(8, std::as_writable_bytes(std::span(part)));
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("ends early, at offset 10"));
}

TEST(InputFileTest, WhatIsNoFile) {
  const TemporaryFolder folder;
  EXPECT_TRUE(absl::IsNotFound(InputFile::Open(folder.path() / "absent").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(InputFile::Open(folder.path()).status()));
  const auto pipe = folder.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(InputFile::Open(pipe).status())) << "must not wait";
}

TEST(AtomicFileTest, WholeOrNotAtAll) {
  const TemporaryFolder folder;
  folder.Write("f", "old");
  {
    auto file = AtomicFile::Create(folder.path() / "f");
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(file->Append("half of the n").ok());
    EXPECT_EQ(folder.Read("f"), "old");
  }
  EXPECT_THAT(folder.Names(), ElementsAre("f"));
  auto file = AtomicFile::Create(folder.path() / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Append("new").ok());
  AtomicFile moved = *std::move(file);
  ASSERT_TRUE(moved.Commit().ok());
  EXPECT_EQ(folder.Read("f"), "new");
  EXPECT_THAT(folder.Names(), ElementsAre("f"));
}

TEST(AtomicFileTest, WhatCannotBeWritten) {
  const TemporaryFolder folder;
  EXPECT_TRUE(absl::IsInvalidArgument(AtomicFile::Create(folder.path()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(AtomicFile::Create("").status()));
  const auto inside_file = folder.Write("f", "") / "g";
  EXPECT_TRUE(absl::IsFailedPrecondition(AtomicFile::Create(inside_file).status()));
  // The folder goes away while the file is written.
  const auto deeper = folder.path() / "deeper";
  std::filesystem::create_directory(deeper);
  auto file = AtomicFile::Create(deeper / "g");
  ASSERT_TRUE(file.ok()) << file.status();
  std::filesystem::remove_all(deeper);
  EXPECT_THAT(Message(file->Commit()), HasSubstr("cannot rename"));
}

TEST(ReadFileTest, HasALimit) {
  const TemporaryFolder folder;
  const auto path = folder.Write("f", "12345");
  EXPECT_EQ(ReadFile(path, 5)->size(), 5u);
  EXPECT_THAT(Message(ReadFile(path, 4).status()), HasSubstr("5 bytes exceed the 4"));
  EXPECT_THAT(*ReadFile(folder.Write("none", ""), 0), IsEmpty());
}

}  // namespace
}  // namespace gradwire
