#include "parameter_server/checkpoint_writer.h"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "parameter_server/checkpoint_internal.h"
#include "transport/file_io.h"

namespace gradwire::ps {
namespace {

// How often shard 0 looks for files that are missing.
constexpr std::chrono::milliseconds kLook{20};

}  // namespace

class CheckpointWriter::Impl {
 public:
  explicit Impl(const CheckpointWriterOptions& options) : options_(options) {}
  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  void Start() {
    thread_ = std::thread([this] { Run(); });
  }

  void Save(std::unique_ptr<ShardSnapshot> snapshot) {
    if (snapshot == nullptr) return;
    const std::lock_guard lock(mutex_);
    auto& waiting = waiting_[snapshot->shard];
    if (waiting != nullptr) ++progress_.dropped;
    waiting = std::move(snapshot);
    changed_.notify_all();
  }
  Progress progress() const {
    const std::lock_guard lock(mutex_);
    return progress_;
  }
  absl::Status Flush(Deadline deadline) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_until(lock, deadline, [this] { return Idle(); })) return progress_.status;
    return DeadlineExceeded(
        "{}: checkpoints are still being written: {} shards wait, {} steps "
        "lack files of other shards",
        options_.folder.string(), waiting_.size(), gathering_.size());
  }

 private:
  // A step whose shard files come from elsewhere.
  struct Gathering {
    int64_t step = 0;
    int shards = 0;
    Deadline until;
  };

  bool Idle() const { return waiting_.empty() && gathering_.empty() && !writing_; }

  // The writer's thread. `mutex_` is held except while files are touched.
  void Run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (!waiting_.empty()) {
        const std::unique_ptr<ShardSnapshot> snapshot =
            std::move(waiting_.extract(waiting_.begin()).mapped());
        Work(lock, snapshot->step, [&] { return Write(*snapshot); });
      } else if (!gathering_.empty()) {
        const Gathering oldest = gathering_.front();
        std::vector<std::string> missing;
        Work(lock, oldest.step, [&] { return Gather(oldest, missing); });
        if (missing.empty()) {
          gathering_.erase(gathering_.begin());
        } else if (Clock::now() >= oldest.until) {
          gathering_.erase(gathering_.begin());
          Fail(oldest.step,
               DeadlineExceeded("{}: stays incomplete: after {} s there is no {}; do these servers "
                                "run, and do they "
                                "write to the same folder?",
                                StepFolder(oldest.step).string(),
                                std::chrono::duration<double>(options_.patience).count(),
                                fmt::join(missing, ", ")));
        } else {
          // Behind the others, so that no step keeps a later one from being looked for.
          std::rotate(gathering_.begin(), gathering_.begin() + 1, gathering_.end());
          changed_.wait_for(lock, kLook, [this] { return stopping_ || !waiting_.empty(); });
        }
      } else {
        changed_.notify_all();
        changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      }
    }
  }

  // Runs `work` without the lock and keeps its outcome.
  template <typename F>
  void Work(std::unique_lock<std::mutex>& lock, int64_t step, const F& work) {
    writing_ = true;
    lock.unlock();
    const absl::Status status = work();
    lock.lock();
    writing_ = false;
    if (!status.ok()) Fail(step, status);
  }

  // Keeps an error; logs the first of a row.
  void Fail(int64_t step, const absl::Status& status) {
    ++progress_.failed;
    failed_step_ = step;
    if (progress_.status.ok()) spdlog::warn("checkpoint: {}", Message(status));
    progress_.status = status;
  }

  // Another shard's file of the step that failed does not make it good.
  void Succeed(int64_t step, bool complete) {
    if (complete || step > failed_step_) progress_.status = absl::OkStatus();
  }

  std::filesystem::path StepFolder(int64_t step) const {
    return options_.folder / internal::StepFolderName(step);
  }

  absl::Status Write(const ShardSnapshot& snapshot) {
    const std::filesystem::path folder = StepFolder(snapshot.step);
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) {
      return ErrnoError(error.value(), "{}: cannot make the folder", folder.string());
    }
    // A checkpoint of an earlier run for the same step ends here: its manifest will not fit.
    std::filesystem::remove(folder / internal::kManifestName, error);
    const absl::Status status = internal::WriteShardFile(folder, options_.run, snapshot);
    if (!status.ok()) {
      std::filesystem::remove(folder, error);  // when nothing else is in it
      return status;
    }
    const std::lock_guard lock(mutex_);
    progress_.written = snapshot.step;
    ++progress_.files;
    if (snapshot.shard == 0) {
      std::erase_if(gathering_, [&](const Gathering& g) { return g.step == snapshot.step; });
      gathering_.push_back({snapshot.step, snapshot.shards, Clock::now() + options_.patience});
    } else {
      Succeed(snapshot.step, /*complete=*/false);
    }
    return absl::OkStatus();
  }

  // Writes the manifest when all files are there; else `missing` names those that are not.
  absl::Status Gather(const Gathering& step, std::vector<std::string>& missing) {
    const std::filesystem::path folder = StepFolder(step.step);
    std::vector<internal::ShardFile> files;
    for (int shard = 0; shard < step.shards; ++shard) {
      const std::string name = internal::ShardFileName(shard, step.shards);
      auto file = internal::OpenShardFile(folder / name);
      if (file.ok() && file->step == step.step && file->run == options_.run) {
        files.push_back(*std::move(file));
      } else if (file.ok()) {
        missing.push_back(
            fmt::format("{} of this run (there is one of run '{}')", name, file->run));
      } else if (absl::IsNotFound(file.status())) {
        missing.push_back(name);
      } else {
        missing.push_back(fmt::format("{} that can be read ({})", name, Message(file.status())));
      }
    }
    if (!missing.empty()) return absl::OkStatus();
    GW_ASSIGN_OR_RETURN(const CheckpointInfo info, internal::Combine(folder, files));
    GW_RETURN_IF_ERROR(internal::WriteManifest(info));
    {
      const std::lock_guard lock(mutex_);
      progress_.complete = step.step;
      ++progress_.manifests;
      Succeed(step.step, /*complete=*/true);
    }
    return CleanUp(step.step);
  }

  // Removes all but the newest complete checkpoints, and what stayed incomplete before `newest`.
  absl::Status CleanUp(int64_t newest) {
    GW_ASSIGN_OR_RETURN(const auto steps, internal::ListSteps(options_.folder));
    int complete = 0;
    for (const auto& [step, folder] : steps) {
      std::error_code error;
      const bool is_complete = std::filesystem::exists(folder / internal::kManifestName, error);
      complete += is_complete ? 1 : 0;
      // What an earlier, longer run left may count as newer than the one just written; that stays.
      if (step == newest || (is_complete ? complete <= options_.keep : step > newest)) continue;
      if (!is_complete && IsGathering(step)) continue;
      GW_RETURN_IF_ERROR(internal::RemoveCheckpoint(folder));
    }
    return absl::OkStatus();
  }
  bool IsGathering(int64_t step) const {
    const std::lock_guard lock(mutex_);
    return std::ranges::any_of(gathering_, [step](const Gathering& g) { return g.step == step; });
  }

  const CheckpointWriterOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  bool writing_ = false;
  std::map<int, std::unique_ptr<ShardSnapshot>> waiting_;  // by shard
  std::vector<Gathering> gathering_;
  Progress progress_;
  int64_t failed_step_ = -1;  // of progress_.status
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CheckpointWriter::Start(
    const CheckpointWriterOptions& options) {
  if (options.folder.empty()) return InvalidArgument("--checkpoint: names no folder");
  if (options.keep < 1) {
    return InvalidArgument("--keep-checkpoints {}: must be positive", options.keep);
  }
  if (options.patience.count() < 0) return InvalidArgument("checkpoints: negative patience");
  std::error_code error;
  std::filesystem::create_directories(options.folder, error);
  if (error) {
    return FailedPrecondition("--checkpoint {}: cannot make the folder: {}",
                              options.folder.string(), error.message());
  }
  // Not kept: only to see that files can be made.
  GW_RETURN_IF_ERROR(AtomicFile::Create(options.folder / "writable").status());
  auto impl = std::make_unique<Impl>(options);
  impl->Start();
  return std::unique_ptr<CheckpointWriter>(new CheckpointWriter(std::move(impl)));
}

CheckpointWriter::CheckpointWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::Save(std::unique_ptr<ShardSnapshot> snapshot) {
  impl_->Save(std::move(snapshot));
}
CheckpointWriter::Progress CheckpointWriter::progress() const { return impl_->progress(); }
absl::Status CheckpointWriter::Flush(Deadline deadline) { return impl_->Flush(deadline); }

}  // namespace gradwire::ps
