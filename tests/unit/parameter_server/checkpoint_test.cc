#include "parameter_server/checkpoint.h"

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "parameter_server/checkpoint_internal.h"
#include "parameter_server/safetensors.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::ps {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using training::TemporaryFolder;

// Three tensors and a number: 24 + 10 + 7 + 1 = 42 elements.
const std::vector<TensorSpec> kTensors = {
    {"dense1.weight", {4, 6}}, {"dense1.bias", {10}}, {"dense2.weight", {7, 1}}, {"scale", {}}};
constexpr int64_t kElements = 42;

// What element `at` of the flat array holds in array `which`: 0 parameters, 1 and 2 states.
float ValueOf(int which, int64_t at) { return static_cast<float>(1000 * which + at) + 0.25f; }

// The pieces of a flat range, which is how shards are cut.
std::vector<Piece> PiecesOf(int64_t begin, int64_t end) {
  std::vector<Piece> pieces;
  int64_t offset = 0;
  for (const TensorSpec& tensor : kTensors) {
    const int64_t first = std::max(begin, offset), last = std::min(end, offset + tensor.count());
    if (first < last) {
      pieces.push_back({tensor.name, tensor.shape, first - offset, last - offset});
    }
    offset += tensor.count();
  }
  return pieces;
}

std::vector<float> ValuesOf(int which, int64_t begin, int64_t end) {
  std::vector<float> values;
  for (int64_t at = begin; at < end; ++at) values.push_back(ValueOf(which, at));
  return values;
}

int64_t Bound(int shard, int shards) { return kElements * shard / shards; }

ShardSnapshot Snapshot(int64_t step, int shard, int shards) {
  const int64_t begin = Bound(shard, shards), end = Bound(shard + 1, shards);
  return {.step = step,
          .shard = shard,
          .shards = shards,
          .pieces = PiecesOf(begin, end),
          .parameters = ValuesOf(0, begin, end),
          .states = {{"mean", ValuesOf(1, begin, end)}, {"square", ValuesOf(2, begin, end)}},
          .clocks = {{0, step, 3}, {7, step + shard, 1}},
          .updates = 10 * shard,
          .metadata = {{"optimizer", "adam"}}};
}

class CheckpointTest : public ::testing::Test {
 protected:
  // Writes the files of all shards and the manifest; returns the checkpoint's folder.
  std::filesystem::path Write(int64_t step, int shards) {
    const auto folder = folder_.path() / internal::StepFolderName(step);
    std::filesystem::create_directories(folder);
    std::vector<internal::ShardFile> files;
    for (int shard = 0; shard < shards; ++shard) {
      const absl::Status status =
          internal::WriteShardFile(folder, "run 1", Snapshot(step, shard, shards));
      EXPECT_TRUE(status.ok()) << status;
      files.push_back(*internal::OpenShardFile(folder / internal::ShardFileName(shard, shards)));
    }
    const auto info = internal::Combine(folder, files);
    EXPECT_TRUE(info.ok()) << info.status();
    EXPECT_TRUE(internal::WriteManifest(*info).ok());
    return folder;
  }
  std::string Error() {
    const auto all = PiecesOf(0, kElements);
    return Message(LoadPieces(folder_.path(), all).status());
  }
  static void Replace(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }
  std::string Read(const std::filesystem::path& path) {
    return folder_.Read(std::filesystem::relative(path, folder_.path()).string());
  }
  TemporaryFolder folder_;
};

TEST_F(CheckpointTest, AnotherNumberOfShardsReadsTheSameNumbers) {
  for (const int saved : {1, 2, 3, 5, 42}) {
    Write(saved, saved);
    for (const int wanted : {1, 2, 5, 41}) {
      for (int shard = 0; shard < wanted; ++shard) {
        const int64_t begin = Bound(shard, wanted), end = Bound(shard + 1, wanted);
        const auto loaded =
            LoadPieces(folder_.path() / internal::StepFolderName(saved), PiecesOf(begin, end));
        ASSERT_TRUE(loaded.ok()) << loaded.status();
        EXPECT_EQ(loaded->info.step, saved);
        EXPECT_EQ(loaded->info.shards(), saved);
        EXPECT_EQ(loaded->parameters, ValuesOf(0, begin, end));
        ASSERT_EQ(loaded->states.size(), 2u);
        EXPECT_EQ(loaded->states[0].name, "mean");
        EXPECT_EQ(loaded->states[0].values, ValuesOf(1, begin, end));
        EXPECT_EQ(loaded->states[1].name, "square");
        EXPECT_EQ(loaded->states[1].values, ValuesOf(2, begin, end));
      }
    }
  }
}

TEST_F(CheckpointTest, ThreeToTwoToFive) {
  Write(1, 3);
  std::vector<int> counts = {3, 2, 5};
  for (size_t i = 0; i + 1 < counts.size(); ++i) {
    const auto from = static_cast<int64_t>(i + 1);
    const auto folder = folder_.path() / internal::StepFolderName(from + 1);
    std::filesystem::create_directories(folder);
    std::vector<internal::ShardFile> files;
    const int shards = counts[i + 1];
    for (int shard = 0; shard < shards; ++shard) {
      const auto pieces = PiecesOf(Bound(shard, shards), Bound(shard + 1, shards));
      const auto loaded = LoadPieces(folder_.path(), pieces);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      ASSERT_EQ(loaded->info.step, from) << "the newest complete one";
      ASSERT_TRUE(internal::WriteShardFile(folder, "r",
                                           {.step = from + 1,
                                            .shard = shard,
                                            .shards = shards,
                                            .pieces = pieces,
                                            .parameters = loaded->parameters,
                                            .states = loaded->states})
                      .ok());
      files.push_back(*internal::OpenShardFile(folder / internal::ShardFileName(shard, shards)));
    }
    ASSERT_TRUE(internal::WriteManifest(*internal::Combine(folder, files)).ok());
  }
  const auto loaded = LoadPieces(folder_.path(), PiecesOf(0, kElements));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->info.step, 3);
  EXPECT_EQ(loaded->info.shards(), 5);
  EXPECT_EQ(loaded->parameters, ValuesOf(0, 0, kElements));
  EXPECT_EQ(loaded->states[1].values, ValuesOf(2, 0, kElements));
}

TEST_F(CheckpointTest, SaysWhatItHolds) {
  Write(123, 2);
  const auto info = ReadCheckpoint(folder_.path());
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->folder.filename(), "step-000123");
  EXPECT_EQ(info->run, "run 1");
  EXPECT_EQ(info->metadata.at("optimizer"), "adam");
  EXPECT_EQ(info->updates, 10) << "the most of all shards";
  EXPECT_THAT(info->states, ElementsAre("mean", "square"));
  EXPECT_TRUE(info->layout.Matches(*Layout::Make(kTensors)).ok());
  EXPECT_THAT(info->files[1].clocks, ElementsAre(WorkerClock{0, 123, 3}, WorkerClock{7, 124, 1}));
  EXPECT_THAT(info->clocks(), ElementsAre(WorkerClock{0, 123, 3}, WorkerClock{7, 123, 0}));
  EXPECT_THAT(SafetensorsFile::Read(info->folder / "shard-0-of-2.safetensors")->names(),
              ElementsAre("dense1.weight[0:21]", "optimizer.mean.dense1.weight[0:21]",
                          "optimizer.square.dense1.weight[0:21]"));
  EXPECT_THAT(SafetensorsFile::Read(info->folder / "shard-1-of-2.safetensors")->names(),
              ::testing::IsSupersetOf({"dense1.weight[21:24]", "dense1.bias", "scale",
                                       "optimizer.mean.dense2.weight"}));
  const auto json = nlohmann::json::parse(Read(info->folder / "checkpoint.json"));
  EXPECT_EQ(json["tensors"][0]["name"], "dense1.weight") << "for other programs";
}

TEST_F(CheckpointTest, ClocksAreWhatEveryShardHas) {
  CheckpointInfo info;
  info.files.resize(2);
  info.files[0].clocks = {{0, 5, 2}, {1, 4, 3}, {2, 9, 0}, {3, 6, 6}};
  info.files[1].clocks = {{0, 5, 2}, {1, 4, 1}, {3, 5, 6}};
  EXPECT_THAT(info.clocks(),
              ElementsAre(WorkerClock{0, 5, 2}, WorkerClock{1, 4, 0}, WorkerClock{3, 5, 0}));
}

TEST_F(CheckpointTest, AnyDamagedByteIsRefused) {
  const auto folder = Write(1, 2);
  size_t positions = 0;
  for (const char* name :
       {"checkpoint.json", "shard-0-of-2.safetensors", "shard-1-of-2.safetensors"}) {
    const std::string bytes = Read(folder / name);
    for (size_t at = 0; at < bytes.size(); ++at) {
      for (const int flip : {0x01, 0x80}) {
        std::string damaged = bytes;
        damaged[at] = static_cast<char>(damaged[at] ^ flip);
        Replace(folder / name, damaged);
        const auto all = PiecesOf(0, kElements);
        const auto loaded = LoadPieces(folder_.path(), all);
        ASSERT_FALSE(loaded.ok()) << name << " at " << at << " of " << bytes.size();
        ASSERT_THAT(Message(loaded.status()), HasSubstr(name)) << at;
        ++positions;
      }
    }
    Replace(folder / name, bytes);
    ASSERT_EQ(Error(), "") << name;
  }
  EXPECT_GT(positions, 4000u);
}

TEST_F(CheckpointTest, AnyTruncationIsRefused) {
  const auto folder = Write(1, 2);
  for (const char* name : {"checkpoint.json", "shard-1-of-2.safetensors"}) {
    const std::string bytes = Read(folder / name);
    for (size_t size = 0; size < bytes.size(); size += 7) {
      Replace(folder / name, bytes.substr(0, size));
      ASSERT_THAT(Error(), HasSubstr(name)) << size;
    }
    Replace(folder / name, bytes + "x");
    EXPECT_THAT(Error(), HasSubstr(name));
    Replace(folder / name, bytes);
  }
  EXPECT_EQ(Error(), "");
}

// Only what is read is checked to the last byte, and damage elsewhere does no harm.
TEST_F(CheckpointTest, ReadsNoMoreThanIsWanted) {
  const auto folder = Write(1, 2);
  const auto path = folder / "shard-1-of-2.safetensors";
  std::string bytes = Read(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);  // of "scale"'s state, the last entry
  Replace(path, bytes);
  EXPECT_THAT(Error(), AllOf(HasSubstr("shard-1-of-2"), HasSubstr("optimizer.square.scale"),
                             HasSubstr("CRC-32")));
  const auto loaded = LoadPieces(folder_.path(), PiecesOf(0, 24));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->parameters, ValuesOf(0, 0, 24));
}

TEST_F(CheckpointTest, AMissingShardIsNamed) {
  const auto folder = Write(4, 3);
  std::filesystem::remove(folder / "shard-1-of-3.safetensors");
  EXPECT_THAT(Error(), AllOf(HasSubstr("shard-1-of-3.safetensors"), HasSubstr("is missing")));
}

TEST_F(CheckpointTest, AnotherStepsFileIsRefused) {
  const auto old = Write(4, 2), recent = Write(5, 2);
  std::filesystem::copy_file(old / "shard-1-of-2.safetensors", recent / "shard-1-of-2.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(Error(), AllOf(HasSubstr("step-000005/shard-1-of-2.safetensors"),
                             HasSubstr("header is not the one")));
}

TEST_F(CheckpointTest, WithoutAManifestThereIsNone) {
  const auto none = ReadCheckpoint(folder_.path());
  EXPECT_TRUE(absl::IsNotFound(none.status())) << none.status();
  EXPECT_TRUE(absl::IsNotFound(ReadCheckpoint(folder_.path() / "absent").status()));
  const auto folder = Write(2, 2);
  Write(1, 2);
  std::filesystem::remove(folder / "checkpoint.json");
  EXPECT_EQ(ReadCheckpoint(folder_.path())->step, 1);
  std::filesystem::remove(folder_.path() / "step-000001" / "checkpoint.json");
  EXPECT_THAT(Message(ReadCheckpoint(folder_.path()).status()), HasSubstr("was not completed"));
}

TEST_F(CheckpointTest, NewestByNumber) {
  for (const int64_t step : {999'999, 1'000'000, 5}) Write(step, 1);
  folder_.Write("step-2000000", "a file");
  std::filesystem::create_directories(folder_.path() / "step-7");  // not how we write it
  EXPECT_EQ(ReadCheckpoint(folder_.path())->step, 1'000'000);
}

TEST_F(CheckpointTest, WantsThatDoNotFit) {
  Write(1, 2);
  const auto error = [&](const Piece& piece) {
    return Message(LoadPieces(folder_.path(), std::span(&piece, 1)).status());
  };
  EXPECT_THAT(error({"dense3", {1}, 0, 1}), HasSubstr("dense3"));
  EXPECT_THAT(error({"dense1.bias", {2, 5}, 0, 1}), HasSubstr("saved with shape [10], not [2, 5]"));
  EXPECT_THAT(error({"dense1.bias", {10}, 0, 11}), HasSubstr("[0, 11) leaves"));
  EXPECT_THAT(error({"dense1.bias", {10}, -1, 3}), HasSubstr("[-1, 3) leaves"));
  EXPECT_THAT(error({"dense1.bias", {10}, 4, 3}), HasSubstr("[4, 3) leaves"));
  EXPECT_EQ(error({"dense1.bias", {10}, 3, 3}), "");
}

TEST_F(CheckpointTest, OverlapsGapsAndMixturesAreRefused) {
  const auto combine = [&](auto change) {
    std::vector<internal::ShardFile> files;
    for (int shard = 0; shard < 2; ++shard) {
      ShardSnapshot snapshot = Snapshot(1, shard, 2);
      std::string run = "r";
      change(snapshot, run);
      const absl::Status status = internal::WriteShardFile(folder_.path(), run, snapshot);
      EXPECT_TRUE(status.ok()) << status;
      files.push_back(*internal::OpenShardFile(folder_.path() / internal::ShardFileName(shard, 2)));
    }
    return Message(internal::Combine(folder_.path(), files).status());
  };
  // Shard 0 ends, and shard 1 begins, in dense1.weight at 21.
  const auto move = [](ShardSnapshot& snapshot, int64_t begin, int64_t end) {
    snapshot.pieces[0].begin = begin;
    snapshot.pieces[0].end = end;
  };
  EXPECT_EQ(combine([](auto&, auto&) {}), "");
  EXPECT_THAT(combine([&](auto& s, auto&) {
                if (s.shard == 0) move(s, 1, 22);
              }),
              AllOf(HasSubstr("'dense1.weight' leaves a gap at element 0")));
  EXPECT_THAT(combine([&](auto& s, auto&) {
                if (s.shard == 1) move(s, 20, 23);
              }),
              HasSubstr("'dense1.weight' overlaps another file at element 21"));
  EXPECT_THAT(combine([&](auto& s, auto&) {
                if (s.shard == 1) s.pieces[1].tensor = "other";
              }),
              testing::IsEmpty())
      << "a layout of its own";
  EXPECT_THAT(combine([&](auto& s, auto&) {
                if (s.shard == 1) s.pieces[0].shape = {6, 4};
              }),
              HasSubstr("another shape than in"));
  EXPECT_THAT(combine([&](auto& s, auto& run) {
                if (s.shard == 1) run = "q";
              }),
              AllOf(HasSubstr("shard-1-of-2"), HasSubstr("run 'q'")));
  EXPECT_THAT(combine([&](auto& s, auto&) { s.step += s.shard; }), HasSubstr("do not fit step 1"));
  EXPECT_THAT(combine([&](auto& s, auto&) {
                if (s.shard == 1) s.states.pop_back();
              }),
              HasSubstr("states [\"mean\"]"));
}

TEST_F(CheckpointTest, SnapshotsThatContradictThemselves) {
  const auto error = [&](auto change) {
    ShardSnapshot snapshot = Snapshot(1, 0, 2);
    change(snapshot);
    const absl::Status status = internal::WriteShardFile(folder_.path(), "r", snapshot);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return Message(status);
  };
  EXPECT_THAT(error([](auto& s) { s.parameters.pop_back(); }), HasSubstr("20 numbers of param"));
  EXPECT_THAT(error([](auto& s) { s.states[1].values.push_back(0); }), HasSubstr("of square for"));
  EXPECT_THAT(error([](auto& s) { s.pieces[0].end = 25; }), HasSubstr("leaves tensor"));
  EXPECT_THAT(error([](auto& s) { s.pieces[0].tensor = "a[0:3]"; }), HasSubstr("cannot name"));
  EXPECT_THAT(error([](auto& s) { s.pieces[0].tensor = "optimizer.x"; }), HasSubstr("cannot name"));
  EXPECT_THAT(error([](auto& s) { s.pieces.push_back(s.pieces[0]); }), HasSubstr("twice"));
  EXPECT_THAT(error([](auto& s) { s.metadata["step"] = "9"; }), HasSubstr("'step' is taken"));
  EXPECT_THAT(error([](auto& s) { s.shard = 2; }), HasSubstr("shard 2 of 2"));
  EXPECT_THAT(folder_.Names(), testing::IsEmpty());
}

// A well-formed safetensors file that is no shard, in a checkpoint whose manifest knows it.
TEST_F(CheckpointTest, ForeignFiles) {
  const std::vector<float> values = {1};
  const auto error = [&](const std::map<std::string, std::string>& metadata) {
    const auto path = folder_.path() / "f.safetensors";
    EXPECT_TRUE(WriteSafetensors(path, {{"w", {1}, values}}, metadata).ok());
    return Message(internal::OpenShardFile(path).status());
  };
  std::map<std::string, std::string> good = {
      {"format", "gradwire.shard.1"},
      {"step", "1"},
      {"shard", "0"},
      {"shards", "1"},
      {"run", ""},
      {"states", "[]"},
      {"clocks", "[]"},
      {"pieces", R"([{"tensor":"w","shape":[1],"begin":0,"end":1,"crc32":[5]}])"}};
  EXPECT_EQ(error(good), "");
  EXPECT_THAT(error({}), HasSubstr("'format' is missing"));
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"step", "-1"},
      {"step", "x"},
      {"shard", "1"},
      {"shards", "99999999999"},
      {"states", "{}"},
      {"states", "[1]"},
      {"clocks", "[{}]"},
      {"clocks", R"([{"worker":1,"step":"2","slices":0}])"},
      {"updates", "-1"},
      {"updates", "9223372036854775807"},
      {"pieces", "[]"},
      {"pieces", "[[["},
      {"pieces", "[3]"},
      {"pieces", R"([{"tensor":"w","shape":[1],"begin":0,"end":1,"crc32":[]}])"},
      {"pieces", R"([{"tensor":"w","shape":[1],"begin":0,"end":1,"crc32":[4294967296]}])"},
      {"pieces", R"([{"tensor":"w","shape":[1],"begin":0,"end":2,"crc32":[5]}])"},
      {"pieces", R"([{"tensor":"w","shape":[-1],"begin":0,"end":1,"crc32":[5]}])"},
      {"pieces",
       R"([{"tensor":"w","shape":[4294967296,4294967296],"begin":0,"end":1,"crc32":[5]}])"},
      {"pieces", R"([{"tensor":"v","shape":[1],"begin":0,"end":1,"crc32":[5]}])"}};
  for (const auto& [key, value] : bad) {
    auto metadata = good;
    metadata[key] = value;
    EXPECT_THAT(error(metadata), HasSubstr("f.safetensors")) << key << " = " << value;
  }
}

TEST_F(CheckpointTest, ExportsWholeTensors) {
  Write(9, 3);
  const auto path = folder_.path() / "model.safetensors";
  const absl::Status status = ExportCheckpoint(folder_.path(), path);
  ASSERT_TRUE(status.ok()) << status;
  const auto file = SafetensorsFile::Read(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("step"), "9");
  EXPECT_EQ(file->metadata().at("optimizer"), "adam");
  std::vector<float> weight(24), bias(10);
  ASSERT_TRUE(file->Load("dense1.weight", {4, 6}, weight).ok());
  EXPECT_EQ(weight, ValuesOf(0, 0, 24));
  ASSERT_TRUE(file->Load("optimizer.square.dense1.bias", {10}, bias).ok());
  EXPECT_EQ(bias, ValuesOf(2, 24, 34));
  EXPECT_EQ(file->names().size(), 12u);
}

TEST_F(CheckpointTest, RemovesItsOwnFilesOnly) {
  const auto folder = Write(3, 2);
  folder_.Write("step-000003/notes", "keep");
  folder_.Write("step-000003/shard-0-of-2.safetensors.99.tmp", "left by a crash");
  ASSERT_TRUE(internal::RemoveCheckpoint(folder).ok());
  EXPECT_EQ(Read(folder / "notes"), "keep");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  std::filesystem::remove(folder / "notes");
  ASSERT_TRUE(internal::RemoveCheckpoint(folder).ok());
  EXPECT_FALSE(std::filesystem::exists(folder));
}

}  // namespace
}  // namespace gradwire::ps
